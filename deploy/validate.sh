#!/usr/bin/env bash
# Validates what is below deploy/: `make deploy-check`. Without Python, says so and passes, which CI
# does not accept. The checks themselves are in validate.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=target/venv

skip() {
    echo "skipped: deploy-check: $1"
    [ "${CI:-}" != true ] || exit 1
    exit 0
}

command -v python3 >/dev/null || skip "python3 is not installed"
if ! "$venv/bin/python3" -c 'import yaml, kubernetes_validate' 2>/dev/null; then
    .ci/tools python
    "$venv/bin/python3" -c 'import yaml, kubernetes_validate' ||
        skip "kubernetes-validate could not be installed"
fi
exec "$venv/bin/python3" deploy/validate.py "$@"

# The only front door: whatever a person or CI runs is a target here.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules
.NOTPARALLEL:

CARGO ?= cargo
LOCKED := --locked
# Never through RUSTFLAGS: those are part of every dependency's fingerprint, so each change of them
# rebuilds the world.
DENY := -D warnings
# Tools from PyPI are put here by `make tools`, apart from the machine's own Python.
VENV := target/venv/bin
# How long to fuzz, and from which number its input follows.
SECONDS := 60
SEED := 1
# How many cases of each property.
CASES := 5000
# Which simulated worlds to run.
SEEDS := 1..200

# $(call have,COMMAND): the command's path, or nothing.
have = $(shell command -v $(1) 2>/dev/null)
# $(call tool,COMMAND,ARGUMENTS): runs a tool, or says that it is passed over, which CI does not
# accept of those it needs.
tool = if path=$$(command -v $(VENV)/$(1) || command -v $(1)); then $$path $(2); \
	else echo "skipped: $(1) is not installed (make tools)"; $(if $(filter $(1),$(CI_NEEDS)),exit 1,:); fi
CI_NEEDS := $(if $(CI),typos)

# tests/chaos: release binaries, built as those that benchmarks measure, are broken by a driver as tests
# have built it.
chaos-build = $(CARGO) build $(LOCKED) --release -p headcount -p headcount-bench && \
	$(CARGO) build $(LOCKED) --bin headcount-chaos
chaos-run = target/debug/headcount-chaos --binary target/release/headcount --seed $(SEED)

.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## List these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 18

build: ## Build the binary `headcount` for development
	$(CARGO) build $(LOCKED) -p headcount

check: ## Type-check everything, tests included
	$(CARGO) check $(LOCKED) --workspace --all-targets

verify: fmt-check tidy typos machete deny lint docs deploy-check test fuzz bench-quick sim-smoke ## Everything that must be green; changes no file

fmt-check: ## Formatting is what `make fix` would leave
	$(CARGO) fmt --all --check

tidy: ## The house rules (tests/tidy); runs in seconds
	$(CARGO) test $(LOCKED) --quiet -p headcount-tidy

lint: ## Clippy on all targets, warnings denied
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- $(DENY)

docs: ## Build the documentation, private items too; dead links are errors
	RUSTDOCFLAGS="$(DENY)" $(CARGO) doc $(LOCKED) --workspace --no-deps --document-private-items

fix: ## Apply what tools can mend: clippy, typos, formatting; the only target that edits sources
	$(CARGO) clippy $(LOCKED) --workspace --all-targets --fix --allow-dirty --allow-staged
	@$(call tool,typos,--config .typos.toml --write-changes)
	$(CARGO) fmt --all

test: ## All tests a newcomer needs to see green: unit, property, system, clients
	$(CARGO) test $(LOCKED) --workspace --doc
ifneq ($(call have,cargo-nextest),)
	$(CARGO) nextest run $(LOCKED) --workspace $(if $(CI),--profile ci)
else
	$(CARGO) test $(LOCKED) --workspace --lib --bins --tests
endif
	@if [ -x tests/clients/run ]; then tests/clients/run; fi
	@tests/clients/websocket

# Faults that one case in ten thousand shows are found by this and not by `make test`. Some tests run a
# multiple or a fraction of CASES, by what a case costs.
properties: ## Property tests with CASES=5000 where `make test` has 256; by hand, half an hour
	PROPTEST_CASES=$(CASES) $(CARGO) test $(LOCKED) --lib --tests --no-fail-fast \
		$$(grep -rl '^proptest' crates tests --include=Cargo.toml | \
		xargs sed -n 's/^name = "\(headcount-[^"]*\)"/-p \1/p')

# All of the workspace is looked at, so that nothing is built anew for fewer features.
fuzz: ## Mutated input for every decoder, SECONDS=60 in all; SEED= for other input, TARGET= INPUT= repeat
	$(CARGO) run $(LOCKED) --bin headcount-fuzz -- --seconds $(SECONDS) --seed $(SEED) \
		$(if $(TARGET),--target $(TARGET)) $(if $(INPUT),--input $(INPUT))

scenarios: ## Re-record the golden effects of the stages; understand the diff before committing it
	UPDATE=1 $(CARGO) test $(LOCKED) --workspace --lib --tests scenario

# Simulated hours are bought with processor minutes: a profile of its own.
sim-smoke: ## Whole clusters under 200 seeds, or as many as 4 minutes allow; every failure is repeatable
	$(CARGO) build $(LOCKED) --profile sim -p headcount-sim
	target/sim/headcount-sim $(SEEDS) --seconds 240

sim: ## Whole clusters under SEEDS=1..200, to their end; one seed repeats a failure, MUTANT= plants a bug
	$(CARGO) build $(LOCKED) --profile sim -p headcount-sim $(if $(MUTANT),--features mutants)
	target/sim/headcount-sim $(SEEDS) $(if $(MUTANT),--mutant $(MUTANT))

sim-twice: ## The same seeds twice, line by line: nothing but the seed decides
	$(CARGO) build $(LOCKED) --profile sim -p headcount-sim
	target/sim/headcount-sim $(SEEDS) --twice --any-coverage

sim-mutants: ## Bugs planted one by one: each must be caught under some of SEEDS=1..200
	$(CARGO) build $(LOCKED) --profile sim -p headcount-sim --features mutants
	target/sim/headcount-sim $(SEEDS) --mutants

proto-surface: ## Re-record proto/surface.txt after a deliberate change of the protocol
	UPDATE=1 $(CARGO) test $(LOCKED) -p headcount-wire --test main surface

demo: ## Three regions on loopback, a story played on them, then left running
	$(CARGO) run $(LOCKED) --release -p headcount -- demo

chaos: ## Break real processes for SECONDS=600 in all ways that the machine allows, SEED= repeats; root
	$(chaos-build)
	$(chaos-run) --seconds $(if $(filter-out file,$(origin SECONDS)),$(SECONDS),600)

chaos-smoke: ## The same for five minutes and from one seed
	$(chaos-build)
	$(chaos-run) --seconds 270

# Twice as long as promised, as CI's machines are slow: it is there for what has come to take many times
# as long.
chaos-promises: ## How long counts of the dead stand, and a lost coordinator is missed; root, two minutes
	$(chaos-build)
	for name in ghosts failover-local; do \
		timeout 600 $(chaos-run) --scenario $$name --slack 2 || exit 1; \
	done

# With the profile that figures are measured with, each in ten minutes at most. What fails leaves its
# logs below its own name, and the others are run all the same.
chaos-scenarios: ## Measure what single faults cost, against what is promised; root, by hand, 20 minutes, SLACK=1.5
	$(CARGO) build $(LOCKED) --profile sim --bin headcount --bin headcount-chaos
	@chaos="target/sim/headcount-chaos --binary target/sim/headcount"; failed=; \
	for name in $$($$chaos --scenario list 2>&1 | cut -d ' ' -f 1); do \
		timeout 600 $$chaos --scenario $$name --seed $(SEED) --keep target/chaos/$$name \
			$(if $(SLACK),--slack $(SLACK)) || failed="$$failed $$name"; \
	done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

crowd: ## What thousands of realtime clients cost a node, as a table; takes minutes
	$(CARGO) build $(LOCKED) --release -p headcount -p headcount-crowd
	target/release/headcount-crowd --binary target/release/headcount

# Half an hour: what it measures fills nodes with a million channels again and again.
bench: ## Measure the core, beside Redis (Debian: redis-server), and write that into BENCHMARKS.md
	$(CARGO) build $(LOCKED) --release -p headcount -p headcount-bench
	target/release/headcount-bench --write BENCHMARKS.md

bench-quick: ## Measure with less of everything; fails where a ratio is far below its bar
	$(CARGO) build $(LOCKED) --release -p headcount -p headcount-bench
	target/release/headcount-bench --quick

typos: ## Spelling
	@$(call tool,typos,--config .typos.toml)

machete: ## Dependencies that nobody uses
	@$(call tool,cargo-machete)

deny: ## Licences, sources and bans of the dependencies
	@$(call tool,cargo-deny,--locked check bans licenses sources)

deploy-check: build ## Render and validate what is below deploy/ (kubectl and Python; CI insists on both)
	deploy/validate.sh $(if $(CI),--self-test)

tools: ## Install the tools that checks use and that can be had here; never fails
	.ci/tools

ci: tools verify chaos-smoke chaos-promises ## What CI runs

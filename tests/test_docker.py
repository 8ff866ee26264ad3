"""What runs around the service: image, compose, dashboard and manifests agree with it and with each other."""

import ast
import json
import re
import tomllib
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from service import cli
from service.settings import Settings
from tests.openapi import offered

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
KUBERNETES = DOCKER / "kubernetes"
# What the service offers to Prometheus: every metric that anything in `docker/` may name, with its labels.
METRICS = {one.name: set(one.labels) for one in offered()} | {"process_resident_memory_bytes": set()}
SCRAPED = {"instance", "namespace", "pod", "job"}  # labels that Prometheus adds

DOCKERFILES = [ROOT / "Dockerfile", *sorted(DOCKER.glob("*.Dockerfile"))]
MANIFESTS = sorted(set(KUBERNETES.glob("*.yaml")) - {KUBERNETES / "prometheus-adapter.yaml"})
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
PROMETHEUS = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())
ADAPTER = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())
OBJECTS = {manifest["kind"]: manifest for manifest in (yaml.safe_load(path.read_text()) for path in MANIFESTS)}
POD = OBJECTS["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
DASHBOARD = json.loads((DOCKER / "grafana" / "dashboards" / "heatlens.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
RULES = [
    rule
    for group in yaml.safe_load((DOCKER / "prometheus-rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
TRIED = yaml.safe_load((ROOT / "tests" / "observability" / "rules_test.yaml").read_text())


def _instructions(path: Path) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions, as (name, rest) with continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def _final(path: Path) -> dict[str, str]:
    """Return the last of each instruction of a Dockerfile's final stage."""
    found: dict[str, str] = {}
    for name, rest in _instructions(path):
        found = {"FROM": rest} if name == "FROM" else found | {name: rest}
    return found


def _seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


IMAGE = _final(ROOT / "Dockerfile")
IMAGE_ENV = dict(re.findall(r"(\w+)=(\S+)", IMAGE["ENV"]))
COMPOSE_ENV = COMPOSE["services"]["heatlens"]["environment"]
POD_ENV = {entry["name"]: entry.get("value") for entry in CONTAINER["env"]}


def _metrics(text: str) -> set[str]:
    """Return the metrics that a query names, histograms without their suffix."""
    named = re.findall(r"\b(?:heatlens|process)_\w+", text)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}


def _ours(environment: dict[str, Any]) -> dict[str, Any]:
    prefix = "HEATLENS_"
    return {name.removeprefix(prefix).lower(): v for name, v in environment.items() if name.startswith(prefix)}


# Metrics


@pytest.mark.parametrize("query", [*QUERIES, *(rule["expr"] for rule in RULES if "up{" not in rule["expr"])])
def test_a_query_names_metrics_and_labels_that_exist(query):
    named = _metrics(query)
    assert named
    assert named <= METRICS.keys()
    labels = {"le"} | SCRAPED | set().union(*(METRICS[name] for name in named))
    grouped = {label for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for label in group.split(", ")}
    selected = {label for chosen in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)(?:=|!)", chosen)}
    assert grouped | selected <= labels


def test_legends_use_labels_of_their_query():
    for target in (target for panel in PANELS for target in panel["targets"]):
        grouped = {label for group in re.findall(r"\bby \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert shown <= (grouped or SCRAPED), target


def test_every_metric_is_on_the_dashboard():
    assert set().union(*(_metrics(query) for query in QUERIES)) == METRICS.keys()


def test_the_service_exposes_every_metric(tiny):
    families = re.findall(r"^# TYPE (\S+)", tiny.metrics.exposition()[0].decode(), re.MULTILINE)
    ours = {name for name in families if name.startswith("heatlens_") and not name.endswith("_created")}
    assert ours == METRICS.keys() - {"process_resident_memory_bytes"}
    assert METRICS.keys() <= set(families)


def test_alerts_are_read_and_each_is_tried():
    """What an alert does on given numbers, promtool tries in a part of its own; here, that none was forgotten."""
    (mounted,) = [v for v in COMPOSE["services"]["prometheus"]["volumes"] if "rules" in v]
    source, target, _ = mounted.split(":")
    assert (DOCKER / source).name == "prometheus-rules.yaml"
    assert PROMETHEUS["rule_files"] == [target]
    tried = re.findall(r'alertname="(\w+)"', json.dumps(TRIED).replace('\\"', '"'))
    assert {rule["alert"] for rule in RULES} == set(tried)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]


def test_the_alert_on_stopping_waits_for_as_long_as_stopping_may_take():
    (rule,) = [rule for rule in RULES if rule["alert"] == "HeatlensDraining"]
    assert _seconds(rule["for"]) > Settings().drain_timeout_s + 15


def test_autoscaling_is_on_a_gauge_that_the_adapter_offers():
    (metric,) = OBJECTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert METRICS[name] == set()
    (rule,) = ADAPTER["rules"]["custom"]
    assert _metrics(rule["seriesQuery"]) == {name}
    assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}


# Settings


@pytest.mark.parametrize(
    "path",
    [p for p in (*DOCKERFILES, *DOCKER.rglob("*")) if p.is_file() and p.suffix != ".jpg"],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_environment_variables_are_settings(path):
    known = {f"HEATLENS_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"HEATLENS_[A-Z_]*[A-Z]", path.read_text())) <= known


@pytest.mark.parametrize("environment", [IMAGE_ENV, COMPOSE_ENV, POD_ENV], ids=["image", "compose", "kubernetes"])
def test_values_of_settings_are_accepted(environment):
    given = _ours(environment)
    assert given
    assert given.keys() <= Settings(**given).model_fields_set


def test_ports_agree():
    port = int(IMAGE["EXPOSE"])
    assert Settings(**_ours(IMAGE_ENV)).port == Settings.model_fields["port"].default == port
    assert [text.rsplit(":", 1)[1] for text in COMPOSE["services"]["heatlens"]["ports"]] == [str(port)]
    assert PROMETHEUS["scrape_configs"][0]["static_configs"] == [{"targets": [f"heatlens:{port}"]}]
    assert CONTAINER["ports"] == [{"name": "http", "containerPort": port}]
    assert f"http://heatlens:{port}" in COMPOSE["services"]["load"]["command"]
    (offered,) = OBJECTS["Service"]["spec"]["ports"]
    assert offered["targetPort"] == "http"
    assert OBJECTS["ServiceMonitor"]["spec"]["endpoints"][0]["port"] == offered["name"]
    # A Service of this name would otherwise put HEATLENS_PORT=tcp://... into the environment of its pods.
    assert POD["enableServiceLinks"] is False


def test_time_to_stop_is_longer_than_draining():
    for environment, grace_s in (
        (COMPOSE_ENV, _seconds(COMPOSE["services"]["heatlens"]["stop_grace_period"])),
        (POD_ENV, POD["terminationGracePeriodSeconds"]),
    ):
        assert Settings(**_ours(environment)).drain_timeout_s + 5 < grace_s


def test_whoever_asks_for_health_waits_longer_than_the_answer_takes():
    patience_s = Settings().readiness_timeout_s
    assert CONTAINER["readinessProbe"]["timeoutSeconds"] > patience_s
    health = IMAGE["HEALTHCHECK"]
    inner_s = float(re.search(r"timeout=(\d+)\)", health).group(1))
    assert patience_s < inner_s < _seconds(re.search(r"--timeout=(\S+)", health).group(1))
    paths = {probe: CONTAINER[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe: where["path"].rsplit("/")[-1] for probe, where in paths.items()} == {
        "startupProbe": "live",
        "livenessProbe": "live",
        "readinessProbe": "ready",
    }
    assert all(where["port"] == "http" for where in paths.values())


# Hardening


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_run_as_a_user_and_get_signals(path):
    instructions = _instructions(path)
    assert instructions[0] == ("ARG", "BASE=python:3.11-slim-bookworm")  # to be given with a digest
    stages = [rest.split() for name, rest in instructions if name == "FROM"]
    for base, *_ in stages:
        assert base in {"$BASE", *(stage[-1] for stage in stages)}
    final = _final(path)
    assert final["USER"] == "10001:10001"
    assert final["STOPSIGNAL"] == "SIGTERM"
    for name in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(final[name]), list)  # a shell between would swallow signals
    if "HEALTHCHECK" in final:
        assert json.loads(final["HEALTHCHECK"].partition(" CMD ")[2])[:2] == ["python", "-I"]
    assert not re.search(r"apt-get|curl|gcc|build-essential", path.read_text())


def test_what_images_copy_is_there_and_not_ignored():
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for path in DOCKERFILES:
        for words in (rest.split() for name, rest in _instructions(path) if name == "COPY" and "--from" not in rest):
            for source in words[:-1]:
                assert (ROOT / source).exists()
                assert source == "." or any(source == k or source.startswith(f"{k}/") for k in kept)
    assert all((ROOT / name).exists() for name in kept)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_compose_services_are_hardened(name):
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "cpus", "pids_limit"} <= service.keys()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    if "build" in service:  # the user is that of the image
        assert (DOCKER / service["build"]["context"] / service["build"].get("dockerfile", "Dockerfile")).is_file()
    else:
        assert not service["user"].startswith(("0", "root"))
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    for volume in service.get("volumes", []):
        source, target, *_ = volume.split(":")
        assert (DOCKER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
        assert target.startswith("/")


def test_pods_keep_to_the_restricted_standard():
    inside = CONTAINER["securityContext"]
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    user, group = IMAGE["USER"].split(":")
    assert (POD["securityContext"]["runAsUser"], POD["securityContext"]["runAsGroup"]) == (int(user), int(group))
    assert inside["readOnlyRootFilesystem"] is True
    assert inside["allowPrivilegeEscalation"] is False
    assert inside["capabilities"] == {"drop": ["ALL"]}
    for kind in ("limits", "requests"):
        assert {"cpu", "memory", "ephemeral-storage"} <= CONTAINER["resources"][kind].keys()


def test_pods_are_reached_by_those_who_are_let_in_and_reach_nobody():
    policy = OBJECTS["NetworkPolicy"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"port": CONTAINER["ports"][0]["name"]}]
    for source in rule["from"]:  # an empty selector of namespaces would be all of them
        assert source == {"podSelector": {}} or source["namespaceSelector"]["matchLabels"]


def test_nobody_knows_the_password_of_grafanas_admin():
    password = COMPOSE["services"]["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"]
    assert re.fullmatch(r"\$\{GRAFANA_PASSWORD:\?[^}]+\}", password)  # none, and nothing starts


def test_what_is_written_to_can_be_written_to():
    cache = IMAGE_ENV["HEATLENS_CACHE_DIR"]
    assert IMAGE["VOLUME"] == cache
    for name in ("HOME", "TORCH_HOME", "TMPDIR"):
        assert Path(IMAGE_ENV[name]).is_relative_to(cache)
    mounts = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert cache in mounts
    assert set(mounts.values()) == {volume["name"] for volume in POD["volumes"]}
    assert f"cache:{cache}" in COMPOSE["services"]["heatlens"]["volumes"]


# Parts that name each other


def test_manifests_select_the_pods():
    labels = OBJECTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget", "ServiceMonitor"):
        assert OBJECTS[kind]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert OBJECTS["Service"]["spec"]["selector"] == OBJECTS["Service"]["metadata"]["labels"] == labels
    target = OBJECTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", OBJECTS["Deployment"]["metadata"]["name"])
    assert "replicas" not in OBJECTS["Deployment"]["spec"]  # the autoscaler's
    assert OBJECTS["HorizontalPodAutoscaler"]["spec"]["minReplicas"] >= 2  # or one disruption stops the service


def test_the_kustomization_lists_every_manifest():
    optional = {"servicemonitor.yaml", "kustomization.yaml"}
    assert {path.name for path in MANIFESTS} - optional == set(OBJECTS["Kustomization"]["resources"])
    assert OBJECTS["Kustomization"]["images"][0]["name"] == CONTAINER["image"]
    assert OBJECTS["Kustomization"]["namespace"] == OBJECTS["Namespace"]["metadata"]["name"]


def test_grafana_finds_its_source_and_dashboard():
    provisioning = DOCKER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "heatlens.yaml").read_text())["providers"]
    grafana = COMPOSE["services"]["grafana"]
    mounted = dict(volume.split(":")[:2][::-1] for volume in grafana["volumes"])
    assert mounted[provider["options"]["path"]] == "./grafana/dashboards"
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].startswith(provider["options"]["path"])
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["source"]["current"]["value"] == source["uid"]
    assert {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]} == {"${source}"}
    assert source["url"] == "http://prometheus:9090"


def test_panels_do_not_overlap():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for a, b in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]


def test_kserve_runs_it_as_kubernetes_does():
    """What its controller reads, by the names of its API; its schema stands in a project of its own."""
    runtime = yaml.safe_load((DOCKER / "kserve" / "servingruntime.yaml").read_text("utf-8"))
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    command = click.Context(cli.main.commands["serve"])
    options = {flag for option in command.command.params for flag in option.opts}
    assert {word for word in container["args"] if word.startswith("--")} <= options
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert Settings(**_ours(environment)).port == container["ports"][0]["containerPort"]
    assert container["securityContext"].items() >= CONTAINER["securityContext"].items()
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] == CONTAINER[probe]["httpGet"]["path"]
        assert container[probe]["httpGet"]["port"] == container["ports"][0]["containerPort"]
    service = yaml.safe_load((DOCKER / "kserve" / "inferenceservice.yaml").read_text("utf-8"))
    predictor = service["spec"]["predictor"]
    formats = {one["name"]: one for one in runtime["spec"]["supportedModelFormats"]}
    assert predictor["model"]["modelFormat"]["name"] in formats
    assert [name for name, one in formats.items() if one.get("autoSelect")] == ["heatlens"]
    assert predictor["model"]["protocolVersion"] in runtime["spec"]["protocolVersions"]
    (metric,) = predictor["autoScaling"]["metrics"]
    assert set(re.findall(r"heatlens_\w+", metric["external"]["metric"]["query"])) <= METRICS.keys()


RAY = {name: yaml.safe_load((DOCKER / "ray" / name).read_text("utf-8")) for name in ("serve.yaml", "rayservice.yaml")}
WITHIN = yaml.safe_load(RAY["rayservice.yaml"]["spec"]["serveConfigV2"])  # what the second one serves


@pytest.mark.parametrize("document", [RAY["serve.yaml"], WITHIN], ids=["serve", "rayservice"])
def test_ray_serves_what_is_there_within_the_services_own_limits(document):
    """Ray itself reads both, where it is installed; here, that what they name exists."""
    (application,) = document["applications"]
    (deployment,) = application["deployments"]
    autoscaling = deployment["autoscaling_config"]
    code = ast.parse((ROOT / "service" / "deploy" / "ray.py").read_text("utf-8"))
    functions = {node.name for node in code.body if isinstance(node, ast.FunctionDef)}
    for name in (application["import_path"], autoscaling["policy"]["policy_function"]):
        module, _, function = name.partition(":")
        assert module == "service.deploy.ray"
        assert function in functions
    names = {node.targets[0].id: node.value for node in code.body if isinstance(node, ast.Assign)}
    assert deployment["request_router_config"]["request_router_class"] == ast.literal_eval(names["ROUTER"])
    settings = Settings(**_ours(application["runtime_env"]["env_vars"]))
    assert deployment["max_ongoing_requests"] == settings.max_waiting_requests
    assert deployment["max_queued_requests"] == -1  # admission is the service's
    assert deployment["graceful_shutdown_timeout_s"] == settings.drain_timeout_s + 15
    assert autoscaling["metrics_interval_s"] <= autoscaling["upscale_delay_s"] < autoscaling["downscale_delay_s"]
    assert document["http_options"]["port"] == settings.port
    assert document["logging_config"]["enable_access_log"] is False


def test_ray_runs_in_pods_as_kubernetes_does():
    """By the names of KubeRay's API; its schema stands in a project of its own."""
    cluster = RAY["rayservice.yaml"]["spec"]["rayClusterConfig"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    least, below = re.search(r">=([\d.]+),<([\d.]+)", next(one for one in extras["ray"] if "ray" in one)).groups()
    version = tuple(map(int, cluster["rayVersion"].split(".")))
    assert tuple(map(int, least.split("."))) <= version < tuple(map(int, below.split(".")))
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"  # no replica runs there
    (workers,) = cluster["workerGroupSpecs"]
    (deployment,) = WITHIN["applications"][0]["deployments"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    assert workers["maxReplicas"] >= deployment["autoscaling_config"]["max_replicas"]
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"].items() >= POD["securityContext"].items()
        assert container["securityContext"] == CONTAINER["securityContext"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert {IMAGE_ENV["HEATLENS_CACHE_DIR"], "/tmp"} == {mount["mountPath"] for mount in container["volumeMounts"]}
        assert WITHIN["http_options"]["port"] in {port["containerPort"] for port in container["ports"]}
    wanted, given = deployment["ray_actor_options"], workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert wanted["num_gpus"] <= int(given["nvidia.com/gpu"])
    assert wanted["num_cpus"] <= int(given["cpu"])


def test_replicas_are_behind_a_proxy_that_knows_sessions():
    class Reading(yaml.SafeLoader):
        pass

    Reading.add_constructor("!reset", lambda loader, node: [])
    text = (DOCKER / "compose.replicas.yaml").read_text("utf-8")
    found = yaml.load(text, Reading)
    services = found["services"]
    assert services["heatlens"]["ports"] == []
    # Callers are those whom the proxy names.
    (network,) = found["networks"]["default"]["ipam"]["config"]
    assert services["heatlens"]["environment"]["HEATLENS_TRUSTED_PROXIES"] == network["subnet"]
    assert services["proxy"]["ports"] == COMPOSE["services"]["heatlens"]["ports"]
    (volume,) = services["proxy"]["volumes"]
    configuration = (DOCKER / volume.partition(":")[0]).read_text("utf-8")
    assert "balance hdr(X-Session-Id)" in configuration
    assert "GET /health/ready" in configuration
    assert "retry-on conn-failure empty-response 503\n    option redispatch 1" in configuration
    assert "option forwardfor" in configuration
    assert f"heatlens:{IMAGE['EXPOSE']}" in configuration

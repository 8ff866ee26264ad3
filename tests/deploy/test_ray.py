"""Two replicas on Ray Serve, one cluster for all tests. Skipped where Ray is missing; `.ci/parts/ray` brings it."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from service.metrics import Metrics
from service.settings import Settings
from tests.api.test_contract import BASE64, PNG, fields
from tests.conftest import CATALOG, serving
from tests.house import ROOT

ray = pytest.importorskip("ray", reason="Ray is not installed")
serve = pytest.importorskip("ray.serve")
pytestmark = [pytest.mark.filterwarnings("ignore")]  # of Ray's own making

from service.deploy import ray as deploy  # noqa: E402  # needs Ray
from service.deploy.ray import ROUTER, TARGET_S, app, waiting_policy  # noqa: E402

METHODS = ["cam", "grad-cam", "occlusion", "saliency", "score-cam", "integrated-gradients"]


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def address() -> Any:
    """The address of two replicas of the small networks."""
    port = _free_port()
    environment = {
        "HEATLENS_CATALOG": str(CATALOG),
        "HEATLENS_DEVICE": "cpu",
        "HEATLENS_TUNE": "false",
        "HEATLENS_ALLOWED_HOSTS": "*",
        "PYTHONPATH": str(ROOT),
        "MALLOC_ARENA_MAX": "1",
    }
    os.environ |= {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120", "RAY_SERVE_PROXY_READY_CHECK_PERIOD_S": "1"}
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": environment})
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app({"min_replicas": "2", "max_replicas": "2", "num_cpus": "1"}), name="heatlens")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="module")
def truth() -> Any:
    """What one server answers."""
    with serving(Settings(catalog=CATALOG, device="cpu")) as client:
        yield {method: [one["array"]["data"] for one in _asked(client, method).json()["maps"]] for method in METHODS}


def _asked(client: httpx.Client, method: str, **more: Any) -> httpx.Response:
    body = fields(method) | {"image": BASE64} | more.pop("json", {})
    return client.post(f"/explain/{method}", json=body, **more)


def test_answers_of_two_replicas_are_the_serial_truth(address: str, truth: Any) -> None:
    with httpx.Client(base_url=address, timeout=120) as client, ThreadPoolExecutor(8) as pool:
        asked = METHODS * 12
        for method, response in zip(asked, pool.map(lambda method: _asked(client, method), asked), strict=True):
            assert response.status_code == 200, response.text
            for one, expected in zip(response.json()["maps"], truth[method], strict=True):
                np.testing.assert_allclose(one["array"]["data"], expected, rtol=1e-3, atol=1e-5)


def test_forms_and_errors_pass_through_unchanged(address: str) -> None:
    with httpx.Client(base_url=address, timeout=120) as client:
        assert client.get("/health/live").json() == {"status": "live"}
        assert client.get("/health/ready").status_code == 200
        picture = client.post("/explain/cam", files={"image": PNG}, headers={"accept": "image/png"})
        assert picture.content.startswith(b"\x89PNG")
        assert len(picture.headers.get_list("x-request-id")) == 1
        wrong = client.post("/explain/cam", json={"image": BASE64, "targets": [99]})
        assert (wrong.status_code, wrong.headers["content-type"]) == (422, "application/problem+json")
        assert client.get("/nothing").json()["type"] == "urn:heatlens:problem:not-found"


def test_events_come_in_their_order(address: str) -> None:
    body = {"image": BASE64, "params": {"window": 8, "stride": 2}}
    with httpx.Client(base_url=address, timeout=120) as client:
        headers = {"accept": "text/event-stream"}
        with client.stream("POST", "/explain/occlusion", json=body, headers=headers) as response:
            names = [line.removeprefix("event: ") for line in response.iter_lines() if line.startswith("event: ")]
    assert names[-1] == "result"
    assert set(names[:-1]) <= {"progress", "partial"}


def test_one_session_goes_to_one_replica(address: str) -> None:
    """So that what it asks again is known there."""
    with httpx.Client(base_url=address, timeout=120, headers={"x-session-id": "mine"}) as client:
        caches = []
        for i in range(8):
            body = {"params": {"window": 8, "stride": 4}, "targets": [i % 5]}
            caches.append(_asked(client, "occlusion", json=body).json()["usage"]["cache"])
    assert caches[1:] == ["hit"] * 7


def test_a_replica_that_is_killed_is_replaced_when_its_models_are_ready(address: str) -> None:
    with httpx.Client(base_url=address, timeout=120) as client:
        actors = ray.util.list_named_actors(all_namespaces=True)
        names = [one for one in actors if "heatlens#heatlens" in one["name"].replace(":", "#").lower()]
        assert names, actors
        victim = ray.get_actor(names[0]["name"], namespace=names[0]["namespace"])
        ray.kill(victim, no_restart=True)
        statuses = []
        for _ in range(60):
            response = _asked(client, "cam")
            statuses.append(response.status_code)
            if response.status_code == 503:
                assert "loading" not in response.text
        assert statuses[-1] == 200
        assert statuses.count(200) >= 55


@pytest.mark.parametrize(
    ("waiting", "wanted"), [({}, 3), ({"a": 0.0}, 1), ({"a": TARGET_S * 2.5, "b": 0.1}, 3), ({"a": 1000.0}, 8)]
)
def test_as_many_replicas_as_what_waits_needs(waiting: dict[str, float], wanted: int) -> None:
    context = SimpleNamespace(
        aggregated_metrics={"seconds_waiting": waiting} if waiting else {},
        target_num_replicas=3,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=8,
    )
    assert waiting_policy(context) == (wanted, {})


def test_all_metrics_are_copied_to_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sample by its own name, which is that of ours, with its labels and value as they are at that moment."""
    kept: dict[tuple[str, frozenset[Any]], float] = {}

    class Gauge:
        def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
            assert text
            self.name, self.labels = name, labels

        def set(self, value: float, labels: dict[str, str]) -> None:
            assert set(labels) == set(self.labels)
            kept[self.name, frozenset(labels.items())] = value

    monkeypatch.setattr(deploy, "Gauge", Gauge)
    monkeypatch.setattr(deploy.Bridge, "_run", lambda bridge: None)
    metrics, waiting = Metrics(), [1.5]
    metrics.watch("seconds_waiting", "What waits.", lambda: waiting[0])
    metrics.requests.labels("cam", "tiny", "200").inc(3)
    metrics.batch("rows", "tiny", "fp32", 8, 0.1, 0.5)
    bridge = deploy.Bridge(metrics.registry)
    for number in (1.5, 0.0):
        waiting[0] = number
        bridge.copy()
        samples = [one for family in metrics.registry.collect() for one in family.samples]
        ours = {(s.name, frozenset(s.labels.items())): s.value for s in samples if s.name.startswith("heatlens_")}
        assert ours == {key: value for key, value in kept.items() if key[0].startswith("heatlens_")}
        assert kept["heatlens_seconds_waiting", frozenset()] == number
    labels = frozenset({("method", "cam"), ("model", "tiny"), ("status", "200")})
    assert kept["heatlens_requests_total", labels] == 3


def test_the_files_are_what_ray_reads() -> None:
    schema = pytest.importorskip("ray.serve.schema")
    document = yaml.safe_load((ROOT / "docker" / "ray" / "serve.yaml").read_text("utf-8"))
    found = schema.ServeDeploySchema.model_validate(document)
    service = yaml.safe_load((ROOT / "docker" / "ray" / "rayservice.yaml").read_text("utf-8"))
    inner = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert schema.ServeDeploySchema.model_validate(inner).applications[0].import_path == "service.deploy.ray:app"
    for deployment in (
        found.applications[0].deployments[0],
        schema.ServeDeploySchema.model_validate(inner).applications[0].deployments[0],
    ):
        assert deployment.name == "heatlens"
        assert deployment.request_router_config["request_router_class"] == ROUTER
        assert deployment.max_ongoing_requests == Settings().max_waiting_requests


def test_unknown_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown arguments \['replicas'\]; there are min_replicas"):
        app({"replicas": "3"})


def test_clients_that_hang_up_leave_nothing(address: str) -> None:
    """A replica takes what it can, whoever went away before: their rows would be minutes of work."""
    long = {"image": BASE64, "params": {"window": 8, "stride": 1, "score": "logit"}, "model": "tiny-vgg"}
    with httpx.Client(base_url=address, timeout=120) as client:
        for _ in range(12):
            with client.stream("POST", "/explain/occlusion", json=long, headers={"accept": "text/event-stream"}):
                pass
        assert _asked(client, "cam").status_code == 200

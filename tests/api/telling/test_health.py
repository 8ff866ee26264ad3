import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import httpx
import pytest
import torch
import uvicorn

from service.app import create_app
from service.engine.scheduler.device import Device
from service.engine.store import Store
from service.server.server import Server
from service.settings import Settings
from tests import tiny as networks
from tests.api.test_contract import PNG
from tests.conftest import CATALOG, serving_app


@pytest.mark.parametrize(("name", "found"), [("alive", False), ("stuck_s", lambda device, after_s: 100.0)])
def test_a_server_that_only_a_restart_helps_is_not_live(monkeypatch, name, found):
    monkeypatch.setattr(Server, "on_tick", uvicorn.Server.on_tick)  # it goes on, for us to ask
    with serving_app(create_app(Settings(catalog=CATALOG, device="cpu", model="tiny"))) as client:
        assert client.get("/health/live").status_code == 200
        monkeypatch.setattr(Device, name, found)
        answer = client.get("/health/live")
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:heatlens:problem:engine-unavailable")
        assert "restart the server" in answer.json()["detail"]
        other = client.get("/v2/health/live")
        assert (other.status_code, other.json()) == (503, {"live": False})


def test_health(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    ready = client.get("/health/ready").json()
    assert ready == {"status": "ready", "models": {m["name"]: "ready" for m in client.get("/models").json()["models"]}}


@pytest.fixture
def one_is_late() -> Iterator[tuple[httpx.Client, threading.Event]]:
    """A server whose default model is ready while another one's first forward waits until it may go on."""
    reached, go = threading.Event(), threading.Event()

    class Late(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = networks.classifier()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            reached.set()
            assert go.wait(60)
            return cast(torch.Tensor, self.inner(x))

    app = create_app(Settings(catalog=CATALOG, model=("tiny",), device="cpu"))
    with serving_app(app) as client:
        store = app.state.context.store
        late = replace(store.entry("tiny").spec, name="late", build=lambda: Late().eval())
        failed = replace(late, name="failed", build=lambda: cast(torch.nn.Module, {}["theirs"]))
        specs = {"tiny": store.entry("tiny").spec, "failed": failed, "late": late}
        other = Store(specs, "tiny", store.device)
        app.state.context.pipeline.store = other
        app.state.context = replace(app.state.context, store=other)
        other.start()
        try:
            assert reached.wait(60)
            yield client, go
            assert other.wait(60)
        finally:
            go.set()
            other.close()
            other.join(60)


def test_ready_is_the_default_models_or_that_of_the_one_asked_for(
    one_is_late: tuple[httpx.Client, threading.Event],
) -> None:
    client, go = one_is_late

    def status(model: str | None) -> int:
        return client.get("/health/ready", params={"model": model} if model else {}).status_code

    assert client.get("/health/ready").json()["models"]["late"] == "loading"
    assert [status(name) for name in (None, "tiny", "late", "*", "none")] == [200, 200, 503, 503, 404]
    assert "late" in client.get("/health/ready?model=*").json()["detail"]
    for path in ("/v1/models/late", "/v2/models/late", "/v2/models/late/ready"):  # the same in the protocols' words
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/json")
        assert int(answer.headers["retry-after"]) > 0
        assert "still loading" in answer.json()["error"]
    assert client.post("/predict", files={"image": PNG}).status_code == 200
    go.set()

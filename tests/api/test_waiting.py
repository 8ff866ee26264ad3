"""What happens while a request waits: events, deadlines, clients that hang up, too much work."""

import asyncio
import base64
import http.client
import json
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.middleware.base import BaseHTTPMiddleware

from service.api.middleware import Bodies
from service.app import create_app
from service.errors import Overloaded
from service.settings import Settings
from tests.conftest import CATALOG, serving_app

# Long on a network that takes a millisecond a batch: 625 windows.
LONG = {"params": {"window": 8, "stride": 1}, "output": {"array": "base64"}}


@pytest.fixture
def app():
    return create_app(Settings(catalog=CATALOG, device="cpu"))


@contextmanager
def slow(app, seconds=0.03):
    """Serve with a model whose every batch takes a while."""
    with serving_app(app) as client:
        service = app.state.context
        model = service.store.get("tiny")
        forward = model.forward
        batches = []

        def late(rows, precision="fp32"):
            time.sleep(seconds)
            batches.append(len(rows))
            return forward(rows, precision)

        model.forward = late
        yield client, service, batches


def _quiet(service, patience_s=5.0):
    """Wait until nothing is left of any request."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if not service.device.waiting and not service.device.admission.waiting_requests:
            return True
        time.sleep(0.01)
    return False


def _body(image, **fields):
    return {"image": base64.b64encode(image).decode()} | fields


def _events(response):
    name = None
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_events_report_progress_and_sharpen(app, chelsea):
    with slow(app) as (client, _, _):
        answer = client.post("/explain/occlusion", json=_body(chelsea, **LONG)).json()
        request = _body(chelsea, **LONG) | {"params": {"window": 8, "stride": 1, "fill": "black"}}
        with client.stream(
            "POST", "/explain/occlusion", json=request, headers={"accept": "text/event-stream"}
        ) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            events = list(_events(response))
        plain = client.post("/explain/occlusion", json=request).json()
    names = [name for name, _ in events]
    assert names[-1] == "result"
    assert set(names) == {"progress", "partial", "result"}
    progress = [data for name, data in events if name == "progress"]
    done = [data["rows_done"] for data in progress]
    assert done == sorted(done)
    assert {data["rows_total"] for data in progress} == {626}
    assert progress[-1]["seconds_left"] < progress[0]["seconds_left"]
    result = events[-1][1]
    assert result["maps"] == plain["maps"]
    partial = [data for name, data in events if name == "partial"]
    assert partial[0]["maps"][0]["array"]["shape"] == result["maps"][0]["array"]["shape"]
    assert partial[0]["maps"][0]["overlay"] != result["maps"][0]["overlay"]
    assert answer["maps"] != result["maps"]  # another filling, so that no kept outputs shortened the wait


def test_score_cam_sharpens_too(app, chelsea):
    with (
        slow(app, 0.6) as (client, _, _),
        client.stream(
            "POST", "/explain/score-cam", json=_body(chelsea), headers={"accept": "text/event-stream"}
        ) as response,
    ):
        names = [name for name, _ in _events(response)]
    assert "partial" in names
    assert names[-1] == "result"


def test_an_error_under_way_is_an_event(app, chelsea):
    with slow(app) as (client, service, _):
        request = _body(chelsea, timeout_s=0.4, **LONG)
        with client.stream(
            "POST", "/explain/occlusion", json=request, headers={"accept": "text/event-stream"}
        ) as response:
            events = list(_events(response))
        assert _quiet(service)
    name, problem = events[-1]
    assert name == "error"
    assert (problem["status"], problem["type"]) == (504, "urn:heatlens:problem:deadline-exceeded")


def test_a_mistake_is_a_plain_problem_even_for_events(app):
    with serving_app(app) as client:
        response = client.post("/explain/occlusion", json={"params": {"x": 1}}, headers={"accept": "text/event-stream"})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


def test_a_deadline_stops_the_work_within_a_batch(app, chelsea):
    with slow(app) as (client, service, batches):
        response = client.post("/explain/occlusion", json=_body(chelsea, timeout_s=0.3, **LONG))
        assert response.status_code == 504
        assert "raise timeout_s" in response.json()["detail"]
        assert _quiet(service)
        assert sum(batches) < 626 / 2


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_deadline_holds_before_a_thread_is_free(chelsea, accept):
    app, busy = create_app(Settings(catalog=CATALOG, device="cpu", worker_threads=1)), threading.Event()
    with serving_app(app) as client:
        service = app.state.context
        service.long_pool.submit(busy.wait, 60)
        request = _body(chelsea, timeout_s=0.2, **LONG)
        with client.stream("POST", "/explain/occlusion", json=request, headers={"accept": accept}) as response:
            assert not busy.is_set()
            problem = json.loads(response.read()) if accept == "application/json" else dict(_events(response))["error"]
        assert problem["status"] == 504
        assert client.post("/predict", json=_body(chelsea)).status_code == 200  # small work has threads of its own
        busy.set()
        assert _quiet(service)


def _json(image):
    return json.dumps(_body(image, **LONG)).encode(), "application/json"


def _multipart(image):
    request = httpx.Request(
        "POST", "http://host/", files={"image": ("a.png", image, "image/png")}, data={"request": json.dumps(LONG)}
    )
    return request.read(), request.headers["content-type"]


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize("body", [_json, _multipart])
def test_a_client_that_hangs_up_stops_costing_rows(app, chelsea, body, middleware, accept):
    if middleware:
        app.add_middleware(Passing)
    with slow(app) as (client, service, batches):
        data, kind = body(chelsea)
        connection = http.client.HTTPConnection(urlsplit(str(client.base_url)).netloc)
        connection.request("POST", "/explain/occlusion", data, {"content-type": kind, "accept": accept})
        while not batches:
            time.sleep(0.005)
        if accept == "text/event-stream":
            connection.getresponse().readline()
        connection.sock.close() if connection.sock else None
        connection.close()
        assert _quiet(service)
        assert sum(batches) < 626 / 2
        assert client.get("/health/ready").status_code == 200


def test_too_much_work_is_turned_away_undecoded(chelsea, monkeypatch):
    app = create_app(Settings(catalog=CATALOG, device="cpu", max_waiting_passes=700))
    with slow(app) as (client, service, batches):
        held = threading.Thread(
            target=client.post, args=("/explain/occlusion",), kwargs={"json": _body(chelsea, **LONG)}
        )
        held.start()
        while not batches:
            time.sleep(0.005)
        monkeypatch.setattr("service.pipeline.decode", lambda *_, **__: pytest.fail("it was decoded"))
        response = client.post("/explain/occlusion", json=_body(chelsea, **LONG))
        assert response.status_code == 429
        assert response.json()["type"] == "urn:heatlens:problem:overloaded"
        assert int(response.headers["retry-after"]) >= 1
        monkeypatch.undo()
        assert client.post("/predict", json=_body(chelsea)).status_code == 200  # there is room for one row
        held.join()
        assert _quiet(service)


def test_nothing_is_read_of_a_request_that_will_be_turned_away(chelsea):
    page = "https://page.example"
    app = create_app(Settings(catalog=CATALOG, device="cpu", max_waiting_passes=600, cors_origins=page))
    with slow(app) as (client, service, batches):
        held = threading.Thread(
            target=client.post, args=("/explain/occlusion",), kwargs={"json": _body(chelsea, **LONG)}
        )
        held.start()
        while not batches:
            time.sleep(0.005)
        # Half a body: an answer can only come from a server that does not wait for the rest.
        connection = http.client.HTTPConnection(urlsplit(str(client.base_url)).netloc, timeout=5)
        connection.putrequest("POST", "/predict")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", "1000000")
        connection.putheader("origin", page)
        connection.endheaders(b"{")
        refused = connection.getresponse()
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["access-control-allow-origin"] == page  # so that a page may read why
        assert refused.headers["x-request-id"]
        connection.close()
        held.join()
        assert service.metrics.requests.labels("predict", "none", "429")._value.get() == 1


def test_bodies_are_bounded_together():
    async def reading(scope, receive, send):
        while (await receive())["more_body"]:
            pass

    async def run():
        bodies, go = Bodies(reading, max_bytes=100), asyncio.Event()

        async def slowly():
            if bodies.held:
                await go.wait()
            return {"type": "http.request", "body": b" " * 30, "more_body": not go.is_set()}

        async def at_once():
            return {"type": "http.request", "body": b" " * 60, "more_body": False}

        slow_one = asyncio.create_task(bodies({"type": "http"}, slowly, None))
        await asyncio.sleep(0)
        assert bodies.held == 30
        await bodies({"type": "http"}, at_once, None)
        assert bodies.held == 30
        bodies.max_bytes = 80
        with pytest.raises(Overloaded, match="under way fill"):
            await bodies({"type": "http"}, at_once, None)
        assert bodies.held == 30
        go.set()
        await slow_one
        assert bodies.held == 0

    asyncio.run(run())


def test_a_body_that_finds_no_room_is_refused(chelsea):
    with serving_app(create_app(Settings(catalog=CATALOG, device="cpu", bodies_mib=1))) as client:
        kind = {"content-type": "application/json"}
        refused = client.post("/predict", content=b" " * 1_200_000, headers=kind)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:heatlens:problem:overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert client.post("/predict", json=_body(chelsea)).status_code == 200


def test_equal_requests_are_answered_from_memory(app, chelsea):
    with slow(app, 0.0) as (client, _, batches):
        first = client.post("/explain/occlusion", json=_body(chelsea, targets=[0], **LONG)).json()
        rows = sum(batches)
        second = client.post("/explain/occlusion", json=_body(chelsea, targets=[1], **LONG)).json()
        assert sum(batches) == rows
        assert (first["usage"]["cache"], second["usage"]["cache"]) == ("miss", "hit")
        assert second["usage"]["rows_avoided"] == 626
        assert first["maps"][0]["array"] != second["maps"][0]["array"]
        both = client.post("/explain/occlusion", json=_body(chelsea, targets=[0, 1], **LONG)).json()
        assert [m["array"] for m in both["maps"]] == [first["maps"][0]["array"], second["maps"][0]["array"]]
        other = _body(chelsea, targets=[0], precision="bf16", **LONG)
        assert client.post("/explain/occlusion", json=other).json()["usage"]["dtype"] == "bfloat16"
        assert sum(batches) == 2 * rows  # another precision is another question

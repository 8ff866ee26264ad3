"""What happens while a request waits: events, deadlines, clients that hang up, too much work."""

import asyncio
import base64
import gc
import http.client
import itertools
import json
import threading
import weakref
from functools import cache
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.middleware.base import BaseHTTPMiddleware

from service.api import models, running
from service.api.pages import docs, front
from service.api.telling import colormaps
from service.app import create_app
from service.client import wire
from service.settings import Settings
from tests.api.conftest import PATIENCE_S, holding
from tests.conftest import CATALOG

# 625 windows: many batches.
LONG = {"params": {"window": 8, "stride": 1}, "output": {"array": "base64"}}
ROWS = 626
EVENTS = {"accept": "text/event-stream"}


@pytest.fixture
def app():
    return create_app(Settings(catalog=CATALOG, device="cpu"))


def _events(response):
    name = None
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@pytest.fixture
def eager(monkeypatch):
    """Let an event follow every batch that is noticed."""
    monkeypatch.setattr(running, "_PROGRESS_S", 0.0)
    monkeypatch.setattr(running, "_PARTIAL_S", 0.0)


def test_what_is_made_once_is_made_in_a_thread_and_kept():
    made_in = []

    @cache
    def make():
        made_in.append(threading.current_thread())
        return object()

    async def twice():
        return await running.made(make), await running.made(make)

    first, second = asyncio.run(twice())
    assert first is second
    assert len(made_in) == 1
    assert made_in[0] is not threading.current_thread()


@pytest.mark.parametrize(
    ("module", "name", "path"),
    [
        (front, "files", "/ui/index.html"),
        (front, "files", "/"),
        (docs, "files", "/docs"),
        (models, "_methods", "/methods"),
        (colormaps, "_listed", "/colormaps"),
        (colormaps, "_names", "/colormaps/nothing"),
    ],
)
def test_who_asks_first_makes_nobody_wait(module, name, path, monkeypatch):
    """What an address makes once, for whoever asks first, no event loop makes."""
    real, asked = getattr(module, name), []

    async def made(cached):
        asked.append(cached)
        return real()

    monkeypatch.setattr(module, "made", made)

    async def ask():
        transport = httpx.ASGITransport(create_app(Settings(device="cpu", host="0.0.0.0", log_level="error")))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path, headers={"accept": "text/html"})

    assert asyncio.run(ask()).status_code in (200, 404)
    assert asked == [real]


# Events


def test_events_report_progress_and_sharpen(held, body, eager):
    held.hold(free=1)
    request, events = body(**LONG), []
    with held.client.stream("POST", "/explain/occlusion", json=request, headers=EVENTS) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        for name, data in _events(response):
            events.append((name, data))
            if name == "partial" and data["rows_done"] == 8:  # after one batch, and the next one is held
                held.let(70)
            elif name == "partial" and data["rows_done"] == 8 * 71:
                held.let()
    plain = held.client.post("/explain/occlusion", json=request).json()
    names = [name for name, _ in events]
    assert names[-1] == "result"
    assert set(names) == {"progress", "partial", "result"}
    told = [data for name, data in events if name == "progress"]
    done = [data["rows_done"] for data in told]
    assert done == sorted(done)
    assert {8, 8 * 71} <= set(done)
    assert {data["rows_total"] for data in told} == {ROWS}
    assert all((d["passes_done"], d["passes_total"]) == (d["rows_done"], d["rows_total"]) for d in told)
    left = {data["rows_done"]: data["seconds_left"] for data in told}
    assert left[8] > left[8 * 71] > 0
    result = events[-1][1]
    assert result["maps"] == plain["maps"]
    rough = {data["rows_done"]: data["maps"][0] for name, data in events if name == "partial"}
    partial = next(data for name, data in events if name == "partial")
    assert wire.Partial.model_validate(partial).model_dump(mode="json", exclude_unset=True) == partial
    assert wire.Progress.model_validate(told[0]).model_dump(mode="json", exclude_unset=True) == told[0]
    assert partial["image"] == result["image"] == plain["image"]
    for one in rough.values():
        assert one["array"]["shape"] == result["maps"][0]["array"]["shape"]
    assert len({one["overlay"] for one in (rough[8], rough[8 * 71], result["maps"][0])}) == 3


def test_events_are_numbered(held, body, eager):
    with held.client.stream("POST", "/explain/occlusion", json=body(**LONG), headers=EVENTS) as response:
        lines = list(response.iter_lines())
    numbers = [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]
    assert numbers == list(range(1, 1 + len([line for line in lines if line.startswith("event: ")])))


@pytest.mark.parametrize("timeout_s", [None, 60])
def test_a_stream_that_waits_says_that_it_is_there(held, body, monkeypatch, timeout_s):
    monkeypatch.setattr(running, "_SILENCE_S", 0.01)
    held.hold()
    asked = body(timeout_s=timeout_s) if timeout_s else body()
    with held.client.stream("POST", "/explain/occlusion", json=asked, headers=EVENTS) as response:
        lines = response.iter_lines()
        # How far it is may be told in between, once.
        assert list(itertools.islice(lines, 40)).count(": still there") > 10
        held.let()
        assert "event: result" in list(lines)


def test_score_cam_sharpens_too(held, body, eager):
    held.hold(free=1)  # the picture itself, and some of its masks
    names, bounds = [], []
    with held.client.stream("POST", "/explain/score-cam", json=body(), headers=EVENTS) as response:
        for name, data in _events(response):
            names.append(name)
            if name == "partial":
                bounds.append(data["error_bound"])
                held.let()
    assert "partial" in names
    assert names[-1] == "result"
    assert all(bound is None or bound > 0 for bound in bounds)
    assert data["usage"]["error_bound"] == 0


def test_an_error_under_way_is_an_event(held, body):
    held.hold()
    request = body(timeout_s=0.2, **LONG)
    with held.client.stream("POST", "/explain/occlusion", json=request, headers=EVENTS) as response:
        events = list(_events(response))
    held.let()
    assert held.quiet()
    name, problem = events[-1]
    assert name == "error"
    assert (problem["status"], problem["type"]) == (504, "urn:heatlens:problem:deadline-exceeded")
    assert problem["instance"] == "/explain/occlusion"


def test_a_mistake_is_a_plain_problem_even_for_events(client):
    response = client.post("/explain/occlusion", json={"params": {"x": 1}}, headers=EVENTS)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


def test_an_event_is_written_as_the_standard_says():
    assert running.event("some", b'{"a":1}', 7) == b'id: 7\nevent: some\ndata: {"a":1}\n\n'


def test_a_hang_up_while_an_event_is_sent_ends_what_makes_events():
    closed = []

    async def events():
        try:
            while True:
                yield running.event("progress", b"{}", 1)
        finally:
            closed.append(True)

    async def exchange(answer):
        sending = asyncio.Event()

        async def send(message):
            if message["type"] == "http.response.body":
                sending.set()
                await asyncio.Event().wait()  # the client takes nothing more

        async def receive():
            await sending.wait()
            return {"type": "http.disconnect"}

        await answer({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        assert closed  # at once, while the answer still refers to its events

    asyncio.run(exchange(running.Events(events(), "text/event-stream")))


def test_a_stream_whose_client_has_gone_leaves_no_garbage(monkeypatch):
    """Its frames hold the picture, and the collector, which only counts objects, lets many of them pile up."""

    class Held:
        pass

    async def exchange():
        first, left, freed = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def receive():
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            first.set()

        async def events():
            held = Held()
            weakref.finalize(held, freed.set)
            yield running.event("progress", b"{}", 1)
            await asyncio.Event().wait()

        answering = asyncio.ensure_future(
            running.Events(events(), "text/event-stream")({"type": "http"}, receive, send)
        )
        await first.wait()
        left.set()
        await answering
        assert freed.is_set()

    monkeypatch.setattr(running, "_LEAVE_S", 0.0, raising=False)
    gc.disable()
    try:
        asyncio.run(exchange())
    finally:
        gc.enable()


def test_the_work_behind_events_ends_also_where_none_was_asked_for():
    """The head of an answer may wait behind another one that is not taken."""
    ended = []

    async def events():
        yield b""

    async def exchange(answer):
        sending = asyncio.Event()

        async def send(message):
            sending.set()
            await asyncio.Event().wait()

        async def receive():
            await sending.wait()
            return {"type": "http.disconnect"}

        await answer({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)

    asyncio.run(exchange(running.Events(events(), "text/event-stream", lambda: ended.append(True))))
    assert ended == [True]


def test_rough_maps_are_written_where_they_are_drawn():
    """The loop only sends them: they may have a million values."""
    work = running.Work.__new__(running.Work)
    work._seen, work.run, work.format = SimpleNamespace(picture=None), None, SimpleNamespace(needs=None)
    work.plan = SimpleNamespace(ask=SimpleNamespace(output=None))
    work.service = SimpleNamespace(pipeline=SimpleNamespace(sketch=lambda *_: ((), 0.5)))
    assert json.loads(work.partial({"passes_done": 1})) == {
        "passes_done": 1,
        "image": None,
        "maps": [],
        "error_bound": 0.5,
    }
    work.service.pipeline.sketch = lambda *_: None
    assert work.partial({}) is None


# Deadlines


def test_a_deadline_stops_the_work_within_a_batch(held, body):
    held.hold(free=2)
    response = held.client.post("/explain/occlusion", json=body(timeout_s=1, **LONG))
    assert response.status_code == 504
    assert "raise timeout_s" in response.json()["detail"]
    held.let()
    assert held.quiet()
    assert len(held.batches) <= 3  # the one that was under way ends, and none begins


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_deadline_holds_before_a_thread_is_free(body, accept):
    app, free = create_app(Settings(catalog=CATALOG, device="cpu", worker_threads=1)), threading.Event()
    with holding(app) as held:
        held.service.long_pool.submit(free.wait, PATIENCE_S)
        request, headers = body(timeout_s=0.2, **LONG), {"accept": accept}
        with held.client.stream("POST", "/explain/occlusion", json=request, headers=headers) as response:
            problem = json.loads(response.read()) if accept == "application/json" else dict(_events(response))["error"]
        assert problem["status"] == 504
        assert held.client.post("/predict", json=body()).status_code == 200  # small work has threads of its own
        assert not free.is_set()
        free.set()
        assert held.quiet()


# Clients that hang up


def _json(fields):
    return json.dumps(fields).encode(), "application/json"


def _multipart(fields):
    image = base64.b64decode(fields["image"])
    rest = json.dumps({name: value for name, value in fields.items() if name != "image"})
    request = httpx.Request("POST", "http://host/", files={"image": ("a.png", image)}, data={"request": rest})
    return request.read(), request.headers["content-type"]


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize("encode", [_json, _multipart])
def test_a_client_that_hangs_up_stops_costing_rows(app, body, eager, encode, middleware, accept):
    if middleware:
        app.add_middleware(Passing)
    with holding(app) as held:
        held.hold(free=1)
        data, kind = encode(body(**LONG))
        connection = http.client.HTTPConnection(urlsplit(str(held.client.base_url)).netloc, timeout=PATIENCE_S)
        connection.request("POST", "/explain/occlusion", data, {"content-type": kind, "accept": accept})
        held.wait_for_a_batch()
        if accept == "text/event-stream":
            assert connection.getresponse().readline() == b"id: 1\n"
        connection.close()
        assert held.cancelled.wait(PATIENCE_S)
        held.let()
        assert held.quiet()
        assert len(held.batches) == 2  # those that had begun
        assert held.client.get("/health/ready").status_code == 200


# Too much work


def test_too_much_work_is_turned_away_undecoded(body, monkeypatch):
    app = create_app(Settings(catalog=CATALOG, device="cpu", max_waiting_passes=700))
    with holding(app) as held:
        with held.busy(json=body(**LONG)):
            with monkeypatch.context() as patch:
                patch.setattr("service.codec.inside.decode", lambda *_, **__: pytest.fail("it was decoded"))
                response = held.client.post("/explain/occlusion", json=body(**LONG))
            assert response.status_code == 429
            assert response.json()["type"] == "urn:heatlens:problem:overloaded"
            assert int(response.headers["retry-after"]) >= 1
            held.let()
            assert held.client.post("/predict", json=body()).status_code == 200  # there is room for one row
        assert held.quiet()


def test_equal_requests_are_answered_from_memory(held, body):
    first = held.client.post("/explain/occlusion", json=body(targets=[0], **LONG)).json()
    rows = sum(held.batches)
    second = held.client.post("/explain/occlusion", json=body(targets=[1], **LONG)).json()
    assert sum(held.batches) == rows
    assert (first["usage"]["cache"], second["usage"]["cache"]) == ("miss", "hit")
    assert second["usage"]["rows_avoided"] == ROWS
    assert first["maps"][0]["array"] != second["maps"][0]["array"]
    both = held.client.post("/explain/occlusion", json=body(targets=[0, 1], **LONG)).json()
    assert [m["array"] for m in both["maps"]] == [first["maps"][0]["array"], second["maps"][0]["array"]]
    other = body(targets=[0], precision="bf16", **LONG)
    assert held.client.post("/explain/occlusion", json=other).json()["usage"]["dtype"] == "bfloat16"
    assert sum(held.batches) == 2 * rows  # another precision is another question


def test_many_disconnects_leave_nothing_behind(held, body, access):
    data, kind = _multipart(body(params={"stride": 1, "window": 4}))
    place = urlsplit(str(held.client.base_url))
    head = f"POST /explain/occlusion HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n"
    raw = head.encode() + b"\r\n" + data
    for i in range(60):
        connection = http.client.HTTPConnection(place.netloc, timeout=PATIENCE_S)
        connection.connect()
        connection.sock.sendall(raw[: len(raw) if i % 2 else len(raw) // 2])
        connection.close()
    seen = [access.get(timeout=PATIENCE_S) for _ in range(60)]
    assert [line.status for line in seen].count(499) >= 30  # those of half a body at least
    assert held.quiet()
    assert held.client.post("/predict", json=body()).status_code == 200

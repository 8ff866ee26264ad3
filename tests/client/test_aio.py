"""The asynchronous client: an application in this process, and servers that fail in every way."""

import asyncio
import json
import socket
import threading
from contextlib import contextmanager

import httpx
import numpy as np
import pytest

from service.app import create_app
from service.client import (
    AsyncClient,
    ConnectionFailed,
    Denied,
    Explanation,
    InvalidRequest,
    NotApplicable,
    NotFound,
    Overloaded,
    ServerFailed,
)
from service.settings import Settings
from tests.api import test_running
from tests.api.conftest import holding
from tests.api.test_contract import BASE64, PNG, answer
from tests.conftest import CATALOG

LONG = {"window": 8, "stride": 1}


def test_an_application_in_this_process_answers_as_a_server_does(client, monkeypatch):
    monkeypatch.setattr("service.api.running._PROGRESS_S", 0.0)
    app = create_app(Settings(catalog=CATALOG, device="cpu", model="tiny"))

    async def ask():
        async with AsyncClient("http://app", app=app) as hl:
            await hl.ready()  # begins it
            await asyncio.to_thread(app.state.context.store.wait, 60)
            assert await hl.ready()
            device = app.state.context.device
            stop, stopped = device.cancel, []
            monkeypatch.setattr(device, "cancel", lambda run: (stopped.append(run), stop(run)))
            found = await hl.explain("occlusion", PNG, window=8, stride=8, targets=[3])
            async with hl.watch("occlusion", PNG, **LONG) as run:
                told = [one async for one in run]
                assert run.result.maps[0].values.shape == (32, 32)
            async with hl.watch("occlusion", PNG, window=4, stride=1) as run:
                await anext(run)  # and leaves
            assert len(stopped) == 1
            return found, told

    found, told = asyncio.run(ask())
    served = answer(client, "occlusion", targets=[3], params={"window": 8, "stride": 8})
    np.testing.assert_allclose(found.maps[0].values, np.asarray(served["maps"][0]["array"]["data"]), atol=1e-5)
    assert [one.rows_total for one in told] == [626] * len(told)


def test_many_pictures_come_as_they_end_and_errors_with_them(client):
    async def ask():
        async with AsyncClient(str(client.base_url)) as hl:
            pictures = [PNG, b"no picture", "no/such/file.jpg", *[PNG] * 5]
            asked = hl.explain_many("cam", pictures, concurrency=3, model="tiny")
            return [pair async for pair in asked]

    found = asyncio.run(ask())
    assert len(found) == 8
    kinds = {type(one) for picture, one in found if picture == PNG}
    assert kinds == {Explanation}
    assert [one.status for picture, one in found if picture == b"no picture"] == [415]
    assert [type(one) for picture, one in found if picture == "no/such/file.jpg"] == [InvalidRequest]


class Counting(httpx.AsyncBaseTransport):
    """Answers nothing until as many requests are in flight as are expected."""

    def __init__(self, expected):
        self.expected, self.running, self.most = expected, 0, 0
        self.all = asyncio.Event()

    async def handle_async_request(self, request):
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running == self.expected:
            self.all.set()
        await self.all.wait()
        self.running -= 1
        return httpx.Response(404, text="nothing")


def test_so_many_are_in_flight_and_pictures_are_taken_no_faster():
    taken = []

    def pictures():
        for i in range(40):
            taken.append(i)
            yield b"%d" % i

    async def ask():
        transport, counts = Counting(16), []
        async with AsyncClient(transport=transport) as hl:
            async for _ in hl.explain_many("cam", pictures()):
                counts.append(len(taken))
        return transport.most, counts

    most, counts = asyncio.run(ask())
    assert most == 16
    assert counts[0] == 16
    assert all(count <= 16 + i for i, count in enumerate(counts, 1))
    assert len(counts) == 40


def test_leaving_many_stops_those_in_flight():
    cancelled, begun, both = [], [], asyncio.Event()

    class Waiting(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            if b"first" in await request.aread():
                await both.wait()  # the others are in flight, too
                return httpx.Response(404)
            begun.append(request)
            if len(begun) == 2:
                both.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(request)
                raise

    async def ask():
        async with AsyncClient(transport=Waiting()) as hl:
            asked = hl.explain_many("cam", [b"second", b"first", b"third"])
            async for _ in asked:
                break
            await asked.aclose()
            return len(cancelled)

    assert asyncio.run(ask()) == 2


@contextmanager
def answering(*pieces):
    """A server that accepts connections, reads a little, says a piece of an answer to each, and dies."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            for piece in pieces:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(2**16)
                    connection.sendall(piece)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(2**16):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


OPEN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"
FAR = {"rows_done": 1, "rows_total": 2, "passes_done": 1, "passes_total": 2, "seconds_left": None}
EVENT = b"event: progress\ndata: %s\n\n" % json.dumps(FAR).encode()
CUT, SHORT = OPEN + b"content-length: 1000\r\n\r\n" + EVENT, OPEN + b"\r\n" + EVENT


@pytest.mark.parametrize("piece", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"])
def test_a_server_that_is_killed_is_a_lost_connection_once_tries_are_used_up(piece):
    async def ask(url):
        async with AsyncClient(url, max_retries=1) as hl:
            with pytest.raises(ConnectionFailed, match="is the server running there") as found:
                await hl.predict(PNG)
            return found.value

    with answering(piece, piece) as url:
        assert asyncio.run(ask(url)).status is None
    with pytest.raises(ConnectionFailed):  # nobody listens any more
        asyncio.run(AsyncClient(url, max_retries=0).predict(PNG))


@pytest.mark.parametrize(("piece", "said"), [(CUT, "is the server running"), (SHORT, "ended before")])
def test_a_stream_that_breaks_is_a_lost_connection(piece, said):
    async def ask(url):
        async with AsyncClient(url) as hl, hl.watch("cam", PNG) as run:
            told = []
            told.append((await anext(run)).rows_done)
            with pytest.raises(ConnectionFailed, match=said):
                await run.finish()
            with pytest.raises(RuntimeError, match="no result yet"):
                _ = run.result
            return told

    with answering(piece) as url:
        assert asyncio.run(ask(url)) == [1]


def test_who_leaves_a_watch_stops_the_work(held, monkeypatch):
    monkeypatch.setattr("service.api.running._PROGRESS_S", 0.0)
    held.hold(free=1)

    async def ask():
        async with AsyncClient(str(held.client.base_url)) as hl, hl.watch("occlusion", PNG, **LONG) as run:
            first = await anext(run)
            return first.rows_done

    assert asyncio.run(ask()) == 8
    assert held.cancelled.wait(60)
    held.let()
    assert held.quiet()
    assert len(held.batches) <= 2  # those that had begun


def test_a_cancelled_question_stops_the_work(held):
    held.hold()

    async def ask():
        async with AsyncClient(str(held.client.base_url)) as hl:
            asking = asyncio.ensure_future(hl.explain("occlusion", PNG, **LONG))
            await asyncio.to_thread(held.wait_for_a_batch)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(ask())
    assert held.cancelled.wait(60)
    held.let()
    assert held.quiet()


def test_a_watch_shows_maps_that_sharpen_and_its_errors(held, monkeypatch):
    monkeypatch.setattr("service.api.running._PROGRESS_S", 0.0)
    monkeypatch.setattr("service.api.running._PARTIAL_S", 0.0)
    held.hold(free=1)

    async def ask():
        async with AsyncClient(str(held.client.base_url)) as hl, hl.watch("occlusion", PNG, window=8, stride=4) as run:
            async for one in run:
                if one.maps:
                    held.let()
                    assert one.maps[0].values.shape == (32, 32)
            return await run.finish()

    assert asyncio.run(ask()).maps[0].picture


def test_errors_are_those_of_the_tree(client):
    async def ask(method, **options):
        async with AsyncClient(str(client.base_url), max_retries=0) as hl:
            return await hl.explain(method, PNG, **options)

    for kind, method, options in (
        (NotFound, "cm", {}),
        (NotFound, "cam", {"model": "none"}),
        (NotApplicable, "cam", {"model": "tiny-vgg"}),
        (InvalidRequest, "cam", {"windw": 3}),
        (InvalidRequest, "cam", {"colormap": "none"}),
    ):
        with pytest.raises(kind) as found:
            asyncio.run(ask(method, **options))
        assert type(found.value) is kind
        assert found.value.request_id
    assert found.value.errors[0].pointer == "/output/colormap"


def test_too_much_work_is_an_error_of_its_own():
    async def ask(held):
        async with AsyncClient(str(held.client.base_url), max_retries=0) as hl:
            return await hl.explain("occlusion", PNG, **LONG)

    app = create_app(Settings(catalog=CATALOG, device="cpu", max_waiting_requests=1))
    with holding(app) as held, held.busy(json={"image": BASE64} | test_running.LONG):
        with pytest.raises(Overloaded) as found:
            asyncio.run(ask(held))
        assert found.value.retry_after_s >= 1


def test_a_key_is_sent_and_who_asks():
    def answer(request):
        assert request.headers["user-agent"].startswith("heatlens")  # by the name of what is installed
        return httpx.Response(401 if request.headers.get("authorization") != "Bearer abc" else 200, json={"models": []})

    async def ask(key):
        async with AsyncClient(api_key=key, transport=httpx.MockTransport(answer)) as hl:
            return await hl.models()

    assert asyncio.run(ask("abc")) == []
    with pytest.raises(Denied):
        asyncio.run(ask(None))


def test_another_server_is_noticed():
    async def ask():
        async with AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, text="It works!"))) as hl:
            return await hl.methods()

    with pytest.raises(ServerFailed, match="is it heatlens"):
        asyncio.run(ask())


PROGRESS = {"rows_done": 1, "rows_total": 2, "passes_done": 1, "passes_total": 2, "seconds_left": None}


def heard(work, answer, **options):
    """Do something with a client that is answered so; return the requests."""
    seen = []

    def answering(request):
        seen.append(request)
        return answer

    async def ask():
        async with AsyncClient(transport=httpx.MockTransport(answering), **options) as hl:
            return await work(hl)

    return asyncio.run(ask()), seen


def test_a_key_may_come_of_a_file_and_have_any_letter():
    for given, sent in (("secret\n", b"Bearer secret"), ("schl\u00fcssel", "Bearer schl\u00fcssel".encode())):
        _, (request,) = heard(lambda hl: hl.ready(), httpx.Response(200), api_key=given)
        assert dict(request.headers.raw)[b"authorization"] == sent
    for given in ("one\ntwo", " "):
        with pytest.raises(InvalidRequest, match="give one key alone"):
            AsyncClient(api_key=given)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_is_busy_or_starting_is_not_ready(status):
    assert heard(lambda hl: hl.ready(), httpx.Response(status))[0] is False


def test_a_name_is_one_part_of_an_address():
    async def ask(hl):
        for asked in (hl.model, hl.layers, hl.labels):
            with pytest.raises(NotFound):
                await asked("a/b?c#d")

    _, seen = heard(ask, httpx.Response(404))
    assert {request.url.raw_path.split(b"/")[2] for request in seen} == {b"a%2Fb%3Fc%23d"}


def test_a_picture_that_is_none_ends_nothing():
    async def ask(hl):
        return [picture async for picture, _ in hl.explain_many("cam", [b"a", None, b"b"], concurrency=0)]

    found, seen = heard(ask, httpx.Response(404))
    assert (found, len(seen)) == ([b"a", None, b"b"], 3)


def test_a_watch_that_is_broken_off_is_closed_whatever_is_under_way():
    """As where a program is interrupted while it waits for the next event: what was cancelled takes a while to end."""

    class Slow(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b"event: progress\ndata: " + json.dumps(PROGRESS).encode() + b"\n\n"
            await asyncio.Event().wait()

        async def aclose(self):
            for _ in range(10):
                await asyncio.sleep(0)
            closed.append(True)

    async def ask(hl):
        async with hl.watch("cam", b"picture") as run:
            await anext(run)
            waiting = asyncio.ensure_future(anext(run))
            await asyncio.sleep(0)
            waiting.cancel()

    closed = []
    heard(ask, httpx.Response(200, stream=Slow()))
    assert closed == [True]

"""What is sent again, when, and how often; and what every failure is called."""

import asyncio
import itertools

import httpx
import pytest

from service.client import errors
from service.client.sending.transport import Asked, Patience, Transport

OVERLOADED = {"type": "urn:heatlens:problem:overloaded", "title": "Too much", "status": 429, "detail": "later"}
PROBLEM = {"content-type": "application/problem+json"}


def answered(*answers, retries=4, timeout_s=60.0, path="/predict"):
    """Send one request to a server that answers so; return the answer or error, the pauses, and the requests."""
    pauses, seen, left = [], [], iter(answers)

    async def pause(seconds):
        pauses.append(seconds)

    def answer(request):
        seen.append(request)
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    async def send():
        transport = Transport("http://host", {"user-agent": "x"}, retries, httpx.MockTransport(answer), pause)
        try:
            return await transport.send(Asked("POST", path, lambda left_s: {"json": {"timeout_s": left_s}}), timeout_s)
        except errors.HeatlensError as error:
            return error
        finally:
            await transport.close()

    return asyncio.run(send()), pauses, seen


OK = httpx.Response(200, content=b"{}")


@pytest.mark.parametrize(
    "failure",
    [
        httpx.Response(429, headers=PROBLEM, json=OVERLOADED),
        httpx.Response(503, headers=PROBLEM, json=OVERLOADED | {"status": 503}),
        httpx.Response(503, text="no replica"),
        httpx.Response(500, text="Internal Server Error"),
        httpx.Response(502, text="<html>bad gateway</html>"),
        httpx.Response(504, text="gateway timeout"),
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("closed without an answer"),
    ],
    ids=lambda failure: str(getattr(failure, "status_code", type(failure).__name__)),
)
def test_what_may_pass_is_sent_again(failure):
    found, pauses, seen = answered(failure, failure, OK)
    assert found == b"{}"
    assert len(seen) == 3
    assert 0.5 <= pauses[0] <= 0.625
    assert 1.0 <= pauses[1] <= 1.25


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx.Response(400, headers=PROBLEM, json=OVERLOADED | {"status": 400}), errors.InvalidRequest),
        (httpx.Response(404, text="nothing here"), errors.NotFound),
        (httpx.Response(422, headers=PROBLEM, json=OVERLOADED | {"status": 422}), errors.InvalidRequest),
        (httpx.Response(500, headers=PROBLEM, json=OVERLOADED | {"status": 500}), errors.ServerFailed),
        (httpx.Response(504, headers=PROBLEM, json=OVERLOADED | {"status": 504}), errors.DeadlineExceeded),
        (httpx.Response(307, headers={"location": "https://host/predict"}), errors.ServerFailed),
        (httpx.ReadTimeout("silence"), errors.DeadlineExceeded),
        (httpx.UnsupportedProtocol("what is that"), errors.ConnectionFailed),
        (httpx.LocalProtocolError("illegal header value"), errors.ConnectionFailed),
    ],
    ids=lambda value: str(getattr(value, "status_code", getattr(value, "__name__", type(value).__name__))),
)
def test_what_would_fail_again_is_not(failure, kind):
    found, pauses, seen = answered(failure)
    assert type(found) is kind
    assert (pauses, len(seen)) == ([], 1)


def test_there_is_an_end_to_it():
    found, pauses, seen = answered(*itertools.repeat(httpx.Response(503, text="down"), 5), retries=4)
    assert isinstance(found, errors.Unavailable)
    assert len(seen) == 5
    assert all(1 <= pause / most <= 1.25 for pause, most in zip(pauses, (0.5, 1, 2, 4), strict=True))
    assert isinstance(answered(httpx.Response(503), retries=0)[0], errors.Unavailable)


def test_the_server_says_when():
    late = httpx.Response(429, headers=PROBLEM | {"retry-after": "7"}, json=OVERLOADED)
    found, pauses, _ = answered(late, OK)
    assert found == b"{}"
    assert 7 <= pauses[0] <= 8.75
    found, pauses, _ = answered(late, OK, timeout_s=5)  # it would come too late
    assert (type(found), found.retry_after_s, pauses) == (errors.Overloaded, 7, [])


def test_time_runs_out():
    now = iter([0.0, 1.0, 10.0])
    patience = Patience(10, 4, clock=lambda: next(now))
    assert patience.left_s == 9
    with pytest.raises(errors.DeadlineExceeded, match="timeout_s = 10 s"):
        assert patience.left_s


def test_each_try_tells_the_server_what_time_is_left():
    _, _, seen = answered(httpx.ConnectError("refused"), OK, timeout_s=50)
    first, second = (float(request.content.split(b":")[1].rstrip(b"}")) for request in seen)
    assert 0 < second < first <= 50


class Pieces(httpx.AsyncByteStream):
    def __init__(self, *pieces):
        self.pieces, self.closed = pieces, False

    async def __aiter__(self):
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def aclose(self):
        self.closed = True


def streamed(*streams):
    left, pauses = iter(streams), []

    async def pause(seconds):
        pauses.append(seconds)

    async def follow():
        answer = httpx.MockTransport(lambda _: httpx.Response(200, stream=next(left)))
        transport = Transport("http://host", {}, 4, answer, pause)
        found = []
        try:
            async for event in transport.events(Asked("POST", "/explain/cam"), 60):
                found.append(event.data)
        except errors.HeatlensError as error:
            found.append(error)
        return found

    return asyncio.run(follow()), len(pauses)


def test_a_stream_is_asked_for_again_only_before_its_first_event():
    broken = Pieces(b"data: 1\n\n", httpx.ReadError("reset"))
    whole = Pieces(b"data: 1\n", b"\ndata: 2\n\n")
    assert streamed(Pieces(b": wait\n\n", httpx.ReadError("reset")), whole) == (["1", "2"], 1)
    (first, error), pauses = streamed(broken, whole)
    assert (first, type(error), pauses) == ("1", errors.ConnectionFailed, 0)
    assert broken.closed


@pytest.mark.parametrize("url", ["", "host:8000", "ftp://host", "http://", "http://[::1"])
def test_what_is_no_address_is_said_to_be_none(url):
    with pytest.raises(errors.ConnectionFailed, match=r"is no address.*write http://HOST:PORT"):
        Transport(url, {}, 0)

"""Connections: clients that do nothing, slowly, are let go; what is no HTTP is answered like any other mistake."""

import asyncio
import gc
import json
import logging
import socket
import struct
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from service.api import problems
from service.api.observing.recording import Recording
from service.api.running import WHOLE
from service.metrics import Metrics
from service.server import connections
from service.server.gate import Gate
from service.server.server import Server
from service.settings import Settings

BIG = b"x" * (32 * 2**20)
LIVE = b"GET /small HTTP/1.1\r\nhost: x\r\n\r\n"
CLOSE = b"GET /small HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
CHUNKED = b"POST /read HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
NOWHERE = b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\nx"


@contextmanager
def serving(**limits: object) -> Iterator[SimpleNamespace]:
    """Serve a large and a small answer, and one that comes when `go` is set."""
    started, go, metrics = threading.Event(), threading.Event(), Metrics()
    app = FastAPI()
    app.add_middleware(Recording, metrics=metrics)
    problems.install(app)
    app.add_api_route("/big", lambda: Response(BIG))
    app.add_api_route("/small", lambda: PlainTextResponse("small"))
    app.add_api_route("/health/live", lambda: PlainTextResponse("live"))

    @app.get("/held")
    def held() -> Response:
        found.begun.release()
        assert go.wait(60)
        return PlainTextResponse("held")

    @app.post("/read")
    async def read(request: Request) -> Response:
        return PlainTextResponse(f"{len(await request.body())} bytes")

    @app.get("/watched")
    async def watched(request: Request) -> Response:
        async def leaves() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        waiting = asyncio.ensure_future(leaves())
        await asyncio.sleep(0)
        found.begun.release()
        await waiting
        found.gone.release()
        return PlainTextResponse("")

    @app.get("/streamed")
    async def streamed(request: Request) -> Response:
        async def pieces():
            yield BIG[: 2**20]
            found.begun.release()
            there = asyncio.ensure_future(asyncio.to_thread(go.wait, 60))
            there.add_done_callback(lambda _: request.scope[WHOLE]())
            yield b"a little more"
            yield BIG

        return StreamingResponse(pieces())

    class Started(Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            started.set()

    server = Started(app, Settings(**{"allowed_hosts": "*", **limits}))
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        place = listening.getsockname()
        found = SimpleNamespace(place=place, go=go, metrics=metrics, begun=threading.Semaphore(0), opened=[])
        found.gone = threading.Semaphore(0)
        found.front = server.front
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            assert started.wait(60)
            yield found
        finally:
            for connection in found.opened:
                connection.close()
            go.set()
            server.should_exit = True
            thread.join()


def connect(server, *, small=False, address="127.0.0.1"):
    connection = socket.socket()
    connection.bind((address, 0))
    if small:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    server.opened.append(connection)
    connection.settimeout(60)
    connection.connect(server.place)
    return connection


def rest(connection):
    """Return all that comes until the server closes."""
    received = bytearray()
    with connection, suppress(ConnectionError):
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)


def missed(connection):
    """Take the whole answer of an address that there is not."""
    received = b""
    while not received.endswith(b"}"):
        received += (chunk := connection.recv(65536))
        assert chunk
    assert received.startswith(b"HTTP/1.1 404 ")


def ask(server, data):
    connection = connect(server)
    with suppress(ConnectionError):  # it may be refused before its end
        connection.sendall(data)
    return rest(connection)


def problem(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\ncontent-type: application/problem+json" in head
    assert b"\r\nx-request-id: " in head
    assert b"\r\nconnection: close" in head
    return json.loads(body)


# Heads


def test_a_head_that_drips_and_a_connection_without_a_word_are_ended():
    with serving(head_timeout_s=0.2) as server:
        silent, dripping = connect(server), connect(server)
        dripping.sendall(LIVE[:-2])
        assert rest(silent) == b""
        found = problem(rest(dripping))
        assert (found["status"], found["type"]) == (408, "urn:heatlens:problem:too-slow")
        kept = connect(server)
        kept.sendall(LIVE)
        assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        kept.sendall(LIVE[:9])  # the second head has its own time
        assert problem(rest(kept))["status"] == 408


def test_a_request_under_way_has_no_head_to_wait_for():
    with serving(head_timeout_s=0.05) as server:
        connection = connect(server)
        connection.sendall(CLOSE.replace(b"/small", b"/held"))
        server.begun.acquire()
        assert rest(connect(server)) == b""  # as long as a head may take has gone by
        server.go.set()
        assert rest(connection).endswith(b"held")


def test_a_head_of_many_lines_is_refused():
    with serving() as server:
        found = problem(ask(server, b"GET /small HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 2000 + b"\r\n"))
        assert (found["status"], "more than 1,500 lines" in found["detail"]) == (400, True)


def test_a_connection_that_rests_keeps_nothing_of_its_last_request():
    with serving() as server:
        connection = connect(server)
        sent = b"x" * 60_000
        connection.sendall(NOWHERE.replace(b"1000000000", b"%d" % len(sent))[:-1] + sent)
        missed(connection)
        assert ask(server, CLOSE).endswith(b"small")  # by now all is over
        resting = server.front.resting.first("127.0.0.1")
        assert (resting.cycle.body, resting.cycle.scope, resting.headers) == (b"", {}, [])
        connection.sendall(CLOSE)
        assert rest(connection).endswith(b"small")


@pytest.mark.parametrize("size", [66_000, 200_000])
def test_a_heads_size_is_bounded_also_when_it_comes_in_one_piece(size):
    with serving() as server:
        found = problem(ask(server, b"GET /small HTTP/1.1\r\nhost: x\r\nx-long: " + b"y" * size + b"\r\n\r\n"))
        assert found["status"] == 400


LARGE = b"a:\r\n" * 16_500 + b"\r\n"


def test_a_heads_size_is_bounded_also_behind_another_request():
    with serving() as server:
        answer = ask(server, LIVE + b"GET /small HTTP/1.1\r\nhost: x\r\n" + LARGE)
        first, _, second = answer.partition(b"small")
        assert first.startswith(b"HTTP/1.1 200 ")
        assert problem(second)["status"] == 400


def test_trailers_are_bounded():
    with serving() as server:
        assert ask(server, CHUNKED + b"1\r\na\r\n0\r\na: b\r\n\r\n" + CLOSE).partition(b"1 bytes")[2].endswith(b"small")
        assert problem(ask(server, CHUNKED + b"0\r\n" + LARGE))["status"] == 400


# Bodies


def test_little_is_read_at_a_time(monkeypatch):
    sizes, received = [], connections.Connection.data_received

    def recorded(self, data):
        sizes.append(len(data))
        received(self, data)

    monkeypatch.setattr(connections.Connection, "data_received", recorded)
    with serving() as server:
        head = CLOSE.replace(b"GET /small", b"POST /read").replace(b"\r\n\r\n", b"\r\ncontent-length: 1000000\r\n\r\n")
        assert ask(server, head + b"x" * 10**6).endswith(b"1000000 bytes")
    assert max(sizes) <= 16 * 1024


@pytest.mark.parametrize("size", [1, 63])
def test_a_body_in_chunks_of_next_to_nothing_is_refused(size):
    chunk = b"%x\r\n%s\r\n" % (size, b"x" * size)
    with serving() as server:
        found = problem(ask(server, CHUNKED + chunk * 1001))
        assert found["status"] == 400
        assert f"chunks of {size} bytes on average; send it in larger ones" in found["detail"]
        assert ask(server, CHUNKED + chunk * 1000 + b"0\r\n\r\n" + CLOSE).startswith(b"HTTP/1.1 200 ")


def test_chunks_of_a_body_that_nobody_reads_are_bounded_too():
    with serving() as server:
        connection = connect(server)
        connection.sendall(CHUNKED.replace(b"/read", b"/nowhere"))
        missed(connection)
        with suppress(ConnectionError):
            connection.sendall(b"1\r\na\r\n" * 2000)
        assert rest(connection) == b""


def test_a_chunk_that_is_none_is_told_at_once():
    with serving() as server:
        for data in (b"zz\r\n", b"1\r\naa\r\n", b"-1\r\n"):
            found = problem(ask(server, CHUNKED + data))
            assert (found["status"], found["type"]) == (400, "urn:heatlens:problem:malformed-request")
        assert ask(server, CLOSE).endswith(b"small")


def refused(server):
    """Return a connection with an answer to a request whose body goes on."""
    connection = connect(server)
    connection.sendall(NOWHERE)
    missed(connection)
    connection.sendall(b"y")
    return connection


def test_the_rest_of_a_body_that_nobody_reads_has_its_time():
    with serving(head_timeout_s=0.2) as server:
        assert rest(refused(server)) == b""
        dripping = refused(server)
        with suppress(ConnectionError):
            for _ in range(10**7):  # no byte wins time
                dripping.sendall(b"y")
        assert dripping.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or rest(dripping) == b""


def test_who_sends_much_behind_a_refusal_is_read_slowly(monkeypatch):
    monkeypatch.setattr(connections, "_SPARE", 1000)
    one = connections.Connection.__new__(connections.Connection)
    one._refused, one._over, one._spare = False, True, 0
    one.conn = one._watch_head = lambda: None
    one._unset_keepalive_if_required = one.handle_events = lambda: None
    one.conn = SimpleNamespace(receive_data=lambda data: None)
    assert one.take(b"x" * 1000) == 0.0  # as much as any body
    assert one.take(b"x" * 4096) == 4096 / connections._SPARE_RATE
    one._over = False  # its end has come
    assert one.take(b"x" * 4096) == 0.0
    one._over = True
    assert one.take(b"x") == 0.0


def test_who_sends_the_rest_of_a_body_that_nobody_reads_gives_way():
    with serving(max_connections=2) as server:
        sending = [refused(server) for _ in range(2)]
        assert ask(server, CLOSE).endswith(b"small")
        assert rest(sending[0]) == b""


def test_a_body_that_nobody_reads_ends_and_another_request_follows():
    with serving() as server:
        connection = connect(server)
        connection.sendall(NOWHERE.replace(b"1000000000", b"3"))
        missed(connection)
        connection.sendall(b"yz" + CLOSE)
        assert rest(connection).endswith(b"small")


@pytest.mark.parametrize("more", [b"", b"connection: close\r\n", b"connection: upgrade\r\nupgrade: websocket\r\n"])
@pytest.mark.parametrize("behind", [b"", b"G", LIVE])
def test_who_hangs_up_is_seen_to_have_gone_whatever_was_sent_behind(more, behind):
    with serving() as server:
        connection = connect(server)
        connection.sendall(b"GET /watched HTTP/1.1\r\nhost: x\r\n" + more + b"\r\n")
        server.begun.acquire()
        connection.sendall(behind)
        connection.close()
        assert server.gone.acquire(timeout=60)


# Their number


def test_who_rests_longest_gives_way():
    with serving(max_connections=3) as server:
        resting = [connect(server) for _ in range(3)]
        resting[0].sendall(LIVE)
        assert b" 200 " in resting[0].recv(65536)  # it is no longer the one that rests longest
        assert ask(server, CLOSE).endswith(b"small")
        assert rest(resting[1]) == b""
        resting[0].sendall(CLOSE)
        assert rest(resting[0]).endswith(b"small")


def test_where_nobody_rests_a_new_one_is_turned_away():
    with serving(max_connections=2) as server:
        busy = [connect(server) for _ in range(2)]
        for one in busy:
            one.sendall(CLOSE.replace(b"/small", b"/held"))
            server.begun.acquire()
        found = problem(rest(connect(server)))
        assert (found["status"], found["type"]) == (429, "urn:heatlens:problem:overloaded")
        server.go.set()
        assert all(rest(one).endswith(b"held") for one in busy)
        assert ask(server, CLOSE).endswith(b"small")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
def test_one_caller_leaves_connections_for_others():
    with serving(max_connections=4) as server:
        busy = [connect(server, address="127.0.0.2") for _ in range(3)]
        for one in busy:
            one.sendall(CLOSE.replace(b"/small", b"/held"))
            server.begun.acquire()
        found = problem(rest(connect(server, address="127.0.0.2")))
        assert (found["status"], found["type"]) == (429, "urn:heatlens:problem:overloaded")
        assert ask(server, CLOSE).endswith(b"small")
        server.go.set()
        assert all(rest(one).endswith(b"held") for one in busy)


class Shut(Gate):
    """Nobody's turn comes."""

    def __init__(self):
        super().__init__()
        self.waits, self.off = threading.Semaphore(0), threading.Semaphore(0)

    def enter(self, caller):
        turn = asyncio.get_running_loop().create_future()
        turn.add_done_callback(lambda _: self.off.release())
        self.waits.release()
        return turn


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
def test_a_caller_of_few_keeps_them_where_little_is_free():
    with serving(max_connections=12) as server:
        idle = [connect(server, address="127.0.0.2") for _ in range(8)]
        kept = connect(server)
        kept.sendall(LIVE)
        assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        others = [connect(server) for _ in range(3)]
        assert rest(idle[0]) == b""  # of who has most
        kept.sendall(CLOSE)
        assert rest(kept).endswith(b"small")
        for one in others:
            one.sendall(CLOSE)
            assert rest(one).endswith(b"small")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
def test_of_a_crowd_at_the_door_one_gives_way_to_another_caller():
    with serving(max_connections=3) as server:
        server.front.gate = Shut()
        crowd = [connect(server, address="127.0.0.2") for _ in range(3)]
        for one in crowd:
            one.sendall(CLOSE)
            server.front.gate.waits.acquire()
        new = connect(server)
        assert rest(crowd[0]) == b""  # the longest
        new.sendall(CLOSE.replace(b"small", b"health/live"))
        assert rest(new).endswith(b"live")


class Resting:
    """A connection that tells how often somebody looks whose it is."""

    looks, ended = 0, 0

    @property
    def holder(self):
        Resting.looks += 1
        return "crowd"

    def end(self):
        self.ended += 1


def standing(front, line, holder, count):
    """Return so many connections of one holder's that are open and stand in a line."""
    ones = [Resting() for _ in range(count)]
    for one in ones:
        front.open.take(holder)
        line.add(holder, one)
    return ones


def test_a_crowd_that_never_rests_takes_no_place_of_another_callers():
    """A connection that has just opened rests until its request is there: who probes health has no other."""
    front = connections.Front(10, 1.0, 1.0, 1)
    (opened,) = standing(front, front.resting, "few", 1)
    for _ in range(9):
        front.open.take("crowd")
    assert not front.let_in(SimpleNamespace(holder="crowd"))
    assert not opened.ended
    assert front.let_in(SimpleNamespace(holder="new")), "of those that have as few, one gives way"
    assert opened.ended == 1


def test_a_crowd_at_the_door_is_bounded_by_its_own():
    """Those that are turned away wait for their answers' turns, each with a descriptor: no more of them than fit."""
    front = connections.Front(10, 1.0, 1.0, 1)
    turned = standing(front, front.turns, "crowd", 10)
    assert front.let_in(SimpleNamespace(holder="crowd"))
    assert [one.ended for one in turned] == [1] + [0] * 9


def test_who_gives_way_is_found_without_going_through_all():
    front = connections.Front(1000, 1.0, 1.0, 1)
    crowd = standing(front, front.resting, "crowd", 1000)
    Resting.looks = 0
    assert front.let_in(SimpleNamespace(holder="new"))
    assert [one.ended for one in crowd] == [1] + [0] * 999
    assert Resting.looks < 10


class Waiting:
    """A connection whose answer is not taken."""

    def __init__(self, holder, unsent):
        self.holder, self.unsent, self.given_up = holder, unsent, False

    def give_up(self, reason):
        self.given_up = True


def test_of_answers_that_nobody_takes_those_of_who_has_most_give_way():
    front = connections.Front(9, 1.0, 1.0, unsent_bytes=50)
    slow, *greedy = [Waiting("slow", 20), *(Waiting("greedy", 15) for _ in range(5))]
    front.waiting = dict.fromkeys([slow, *greedy])
    front.bound()
    assert not slow.given_up  # although it has waited longest
    assert [one.given_up for one in greedy] == [True, True, True, False, False]
    front.waiting = {slow: None}
    front.bound()
    assert not slow.given_up


# Answers


@pytest.mark.parametrize("limits", [{"least_bytes_per_s": 1e5}, {"least_bytes_per_s": 1e-9, "unsent_mib": 1}])
def test_an_answer_that_nobody_takes_is_given_up(monkeypatch, caplog, limits):
    monkeypatch.setattr(connections, "_LOOK_S", 0.1)
    given_up = threading.Event()
    caplog.set_level(logging.WARNING, "heatlens")
    give_up = connections.Connection.give_up
    monkeypatch.setattr(connections.Connection, "give_up", lambda self, reason: (give_up(self, reason), given_up.set()))
    with serving(**limits) as server:
        stalled = connect(server, small=True)
        stalled.sendall(CLOSE.replace(b"/small", b"/big"))
        assert given_up.wait(60)
        assert len(rest(stalled)) < len(BIG)
        assert ask(server, CLOSE).endswith(b"small")
    assert "an answer was given up" in caplog.text


@pytest.fixture
def given_up(monkeypatch):
    """What is set once an answer is given up."""
    found, give_up = threading.Event(), connections.Connection.give_up
    monkeypatch.setattr(connections.Connection, "give_up", lambda self, reason: (give_up(self, reason), found.set()))
    return found


def test_an_answer_behind_one_that_nobody_takes_is_counted_too(given_up):
    with serving(unsent_mib=len(BIG) // 2**20 + 8) as server:
        stalled = connect(server, small=True)
        stalled.sendall(LIVE.replace(b"/small", b"/big"))
        assert ask(server, CLOSE).endswith(b"small")
        assert not given_up.is_set()
        stalled.sendall(LIVE.replace(b"/small", b"/big"))
        assert given_up.wait(60)
        assert ask(server, CLOSE).endswith(b"small")


def test_the_rest_of_a_stream_waits_for_nobody_once_all_of_it_is_there(given_up):
    with serving(unsent_mib=len(BIG) // 2**20 - 1) as server:
        stalled = connect(server, small=True)
        stalled.sendall(LIVE.replace(b"/small", b"/streamed"))
        server.begun.acquire()
        assert ask(server, CLOSE).endswith(b"small")
        assert not given_up.is_set()
        server.go.set()
        assert given_up.wait(60)


def test_an_answer_that_is_taken_is_whole():
    with serving() as server:
        assert ask(server, CLOSE.replace(b"/small", b"/big")).endswith(b"\r\n\r\n" + BIG)


@pytest.mark.parametrize(
    ("left", "written", "looks", "given_up"),
    [
        ([5000, 3999, 2998, 0], 0, 3, False),  # a thousand bytes a second, as they have to be
        ([5000, 4001], 0, 1, True),
        ([500, 0], 0, 1, False),  # it was less than that in all
        ([500, 100], 0, 1, True),
        ([5000, 8000, 11000, 0], 4000, 3, False),  # what was written meanwhile is no fault of the client's
        ([5000, 8001], 4000, 1, True),
    ],
)
def test_what_a_client_takes_is_looked_at_from_time_to_time(monkeypatch, left, written, looks, given_up):
    monkeypatch.setattr(connections, "_LOOK_S", 1.0)
    one = connections.Connection.__new__(connections.Connection)
    one.front, one._look, one.client = connections.Front(1, 1.0, 1000.0, 10**6), None, None
    one._given = left[0]
    timers, aborted, sizes = [], [], iter(left)
    one.loop = SimpleNamespace(call_later=lambda delay_s, call: timers.append(call) or timers)
    one.transport = SimpleNamespace(get_write_buffer_size=lambda: found[0], abort=lambda: aborted.append(True))
    one.transport.get_extra_info = lambda name: None
    found = [next(sizes)]
    one._watch_unsent()
    while len(timers) > (done := sum(1 for timer in timers if timer is None)):
        call, timers[done] = timers[done], None
        found[0], one._given = next(sizes), one._given + written
        call()
    assert (len(timers), bool(aborted)) == (looks, given_up)
    assert (one in one.front.waiting) is False


def test_nobody_waits_for_what_was_taken():
    one = connections.Connection.__new__(connections.Connection)
    one.front, one._look = connections.Front(1, 1.0, 1000.0, 10**6), None
    one.transport = SimpleNamespace(get_write_buffer_size=lambda: 0)
    one._watch_unsent()
    assert one._look is None
    assert not one.front.waiting


# What is no request


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a greeting of TLS\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /small HTTP/1.1\r\nhost: x\r\n folded: y\r\nbad header\r\n\r\n",
        b"GET /small HTTP/1.1\r\n\r\n",  # without a host
        b"POST /small HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /small HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na",
        b"POST /small HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        b"GET /small HTTP/2.0\r\nhost: x\r\n\r\n",
    ],
)
def test_what_is_no_request_is_a_problem_with_its_id_client_and_count(data, caplog):
    caplog.set_level(logging.INFO, "heatlens.access")
    with serving() as server:
        found = problem(ask(server, data))
        assert (found["status"], found["type"]) == (400, "urn:heatlens:problem:malformed-request")
        assert ask(server, CLOSE).endswith(b"small")
    line = next(record for record in caplog.records if record.name == "heatlens.access")
    assert (line.status, line.client, line.error) == (400, "127.0.0.1", "malformed-request")
    assert b'heatlens_requests_total{method="none",model="none",status="400"} 1.0' in server.metrics.exposition()[0]


@pytest.mark.parametrize(
    ("allowed", "host", "status"),
    [
        ((), b"localhost:8000", 200),
        ((), b"127.0.0.1", 200),
        ((), b"[::1]:80", 200),
        ((), b"rebound.example", 400),
        ((), b"localhost.rebound.example:8000", 400),
        ("heat.example", b"HEAT.example:443", 200),
        ("heat.example", b"localhost", 400),
        ("*", b"whatever", 200),
    ],
)
def test_a_server_answers_to_its_names(allowed, host, status):
    """Else a page whose own name is given the address 127.0.0.1 could read what is served there."""
    with serving(allowed_hosts=allowed) as server:
        answer = ask(server, CLOSE.replace(b"host: x", b"host: " + host))
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert ask(server, CLOSE.replace(b"/small", b"/health/live")).endswith(b"live")  # whoever looks after it


def test_nonsense_behind_a_request_does_not_cost_its_answer():
    with serving() as server:
        assert ask(server, LIVE + b"nonsense\r\n\r\n").partition(b"small")[0].startswith(b"HTTP/1.1 200 ")


def test_a_client_that_resets_is_forgotten():
    with serving() as server:
        for data in (b"", LIVE[:9], LIVE, b"nonsense\r\n\r\n"):
            connection = connect(server)
            connection.sendall(data)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        assert ask(server, CLOSE).endswith(b"small")


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"GET /sm", LIVE, CLOSE, NOWHERE, b"NONSENSE\r\n\r\n", b"GET /small HTTP/9.9\r\n\r\n"),
        *(LIVE.replace(b"/small", target) for target in (b"small", b"http://x/small", b"https://x/small")),
    ],
    ids=[
        *("nothing", "half a head", "a request", "a last one", "no address", "no HTTP", "no version"),
        *("no path", "a whole address", "another scheme"),
    ],
)
def test_nothing_of_a_connection_waits_for_the_garbage_collector(data, monkeypatch):
    """It searches what lives and all that has been and gone: for as long as that takes, nobody gets anything."""
    made, freed = threading.Event(), threading.Event()
    kept = []

    class Counted(connections.Connection):
        def connection_made(self, transport):
            kept.extend(weakref.ref(one, lambda _: freed.set()) for one in (self, self.conn, transport))
            super().connection_made(transport)
            made.set()

    monkeypatch.setattr("service.server.server.Connection", Counted)
    with serving() as server:
        gc.disable()
        try:
            connection = connect(server)
            connection.sendall(data)
            if data.endswith(b"\r\n\r\n"):
                assert connection.recv(4096)
            assert made.wait(60)
            connection.close()
            while any(one() is not None for one in kept):
                freed.clear()
                assert all(one() is None for one in kept) or freed.wait(20)
        finally:
            gc.enable()


def test_who_has_gone_before_its_turn_asks_for_nothing_and_health_waits_for_none():
    with serving() as server:
        before, server.front.gate = server.front.gate, Shut()
        gone = connect(server)
        gone.sendall(CLOSE.replace(b"small", b"held"))
        server.front.gate.waits.acquire()
        assert ask(server, CLOSE.replace(b"small", b"health/live")).endswith(b"live")
        gone.close()
        server.front.gate.off.acquire()
        server.front.gate = before
        assert ask(server, CLOSE).endswith(b"small")
        assert not server.begun.acquire(blocking=False)


def test_probes_take_turns_of_their_own_and_a_crowd_of_them_holds_up_no_work():
    with serving() as server:
        assert server.front.probes.at_once <= 8  # of a round that others' requests need several of
        server.front.probes = Shut()
        probe = connect(server)
        probe.sendall(CLOSE.replace(b"small", b"health/live"))
        assert server.front.probes.waits.acquire(timeout=20)
        assert ask(server, CLOSE).endswith(b"small")
        probe.close()
        assert server.front.probes.off.acquire(timeout=20)

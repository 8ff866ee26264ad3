"""Stopping: a first signal finishes what was accepted, a second one does not. And what a request's head may take."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from service.api.observing.recording import Recording
from service.metrics import Metrics
from service.server.server import DIED, Server
from service.settings import Settings
from tests.conftest import CATALOG


class Admission:
    """What a server drains: it ends when the test says so."""

    def __init__(self, outcome=True):
        self.outcome, self.timeouts = outcome, []
        self.asked, self.go = threading.Event(), threading.Event()

    def drain(self, timeout_s):
        self.timeouts.append(timeout_s)
        self.asked.set()
        assert self.go.wait(30)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def _server(admission=None):
    app = FastAPI()
    if admission is not None:
        app.state.context = SimpleNamespace(device=SimpleNamespace(admission=admission))
    return Server(app, Settings(drain_timeout_s=12.5))


def _drained(admission=None):
    """Let the thread that drains end."""
    if admission is not None:
        admission.go.set()
    for thread in threading.enumerate():
        if thread.name == "heatlens-drain":
            thread.join(30)


def test_a_first_signal_finishes_what_was_accepted():
    admission = Admission()
    server = _server(admission)
    server.handle_exit(signal.SIGTERM, None)
    assert admission.asked.wait(30)
    assert not server.should_exit  # the loop goes on, and answers what was accepted
    _drained(admission)
    assert (server.should_exit, server.force_exit) == (True, False)
    assert admission.timeouts == [12.5]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(monkeypatch, second):
    admission = Admission()
    server = _server(admission)
    server.handle_exit(signal.SIGTERM, None)
    assert admission.asked.wait(30)
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    server.handle_exit(second, None)
    assert ended == [128 + second]
    assert not admission.go.is_set()  # while work is still under way
    _drained(admission)
    assert admission.timeouts == [12.5]  # and nothing is drained twice


def test_what_does_not_finish_in_time_is_said(caplog):
    admission = Admission(outcome=False)
    server = _server(admission)
    server.handle_exit(signal.SIGINT, None)
    _drained(admission)
    assert server.should_exit
    assert "not finished within 12.5 s" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_cannot_drain_stops_all_the_same():
    admission = Admission(outcome=RuntimeError("a defect"))
    server = _server(admission)
    server.handle_exit(signal.SIGTERM, None)
    _drained(admission)
    assert server.should_exit


def test_what_hangs_after_draining_ends_with_the_process(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr("service.server.server._LAST_S", 0.01)
    monkeypatch.setattr(Server, "end", staticmethod(lambda status: ended.set()))
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets=None: ended.wait(60))
    server = _server(admission := Admission(outcome=False))
    running = threading.Thread(target=server.run)
    running.start()
    server.handle_exit(signal.SIGTERM, None)
    _drained(admission)
    assert ended.wait(60)
    running.join()


def test_a_signal_while_the_application_starts_stops_it():
    server = _server()
    server.handle_exit(signal.SIGTERM, None)
    _drained()
    assert server.should_exit


def test_a_server_whose_engine_has_ended_ends_and_says_so(caplog):
    server = _server(Admission())
    device = server.app.state.context.device
    device.alive = True
    assert not asyncio.run(server.on_tick(1))
    assert server.status == 0
    device.alive = False
    assert asyncio.run(server.on_tick(2))
    assert server.status == DIED
    assert "the engine has ended for good" in caplog.text


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no such signal here")
def test_a_server_that_cannot_listen_is_left_as_any_other_and_says_what_to_do(caplog):
    """What still loads would crash an interpreter that ends: `leave` ends the process instead."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = Server(FastAPI(), Settings(port=port))
        server.run()
    assert server.status == 3
    assert f"port {port}, cannot be listened on" in caplog.text
    assert "HEATLENS_PORT" in caplog.text


def test_a_terminal_that_hangs_up_drains():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may themselves have been started to stay
    try:
        server = _server(admission := Admission())
        with server.capture_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert admission.asked.wait(30)
            _drained(admission)
        assert server.should_exit
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no such signal here")
def test_a_terminal_that_hangs_up_is_nothing_to_who_was_started_to_stay():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with _server().capture_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("left", [[], ["heatlens-loader of slow"]])
def test_a_process_whose_loader_hangs_ends_at_once_with_the_same_status(monkeypatch, left):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    server = _server()
    server.app.state.context = SimpleNamespace(store=SimpleNamespace(join=lambda timeout_s: left))
    server.status = 3
    with pytest.raises(SystemExit) as left_by:
        server.leave()
    assert left_by.value.code == 3
    assert ended == [3] * len(left)


def test_there_is_one_kind_of_connection():
    """Whatever is installed: an upgraded one would leave its place, and all bounds."""
    config = _server().config
    config.load()
    assert config.ws_protocol_class is None


def test_a_heads_size_is_bounded_and_the_server_does_not_name_itself():
    """Whichever parser of HTTP is installed, and however many bytes it would take."""
    app = FastAPI()
    app.add_middleware(Recording, metrics=Metrics())
    with _running(Server(app, Settings(allowed_hosts="*"))) as place:
        found = _raw(place, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 404 ")
        assert b"\r\nserver:" not in found.lower()
        endless = b"GET / HTTP/1.1\r\nhost: x\r\nx-long: " + b"y" * 66_000
        assert _raw(place, endless).startswith(b"HTTP/1.1 400 ")  # before it has ended


def test_a_crowd_that_comes_at_once_leaves_descriptors(monkeypatch):
    """Without one asyncio takes nobody in for a second. Who gives way to a new connection is closed rounds later."""
    taken, most = [], [0]

    class Listening(socket.socket):
        def accept(self):
            got = super().accept()
            taken[:] = [one for one in taken if one.fileno() >= 0] + [got[0]]
            most[0] = max(most[0], len(taken))
            return got

    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (160, 160))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: None)
    with _running(Server(FastAPI(), Settings(allowed_hosts="*")), Listening) as place, ExitStack() as silent:
        for _ in range(200):
            silent.enter_context(socket.create_connection(place, timeout=30))
        found = _raw(place, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 404 ")
    assert 32 < most[0] <= 96


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "accepted", "raised"),
    [
        (1_048_576, 1_048_576, 4096, 128, None),
        (1024, 1_048_576, 4096, 128, 4576),
        (1024, 4096, 3616, 128, 4096),
        (1024, 1024, 754, 58, 1024),
        (256, 256, 130, 10, 256),
        (64, 64, 1, 1, 64),
    ],
)
def test_there_are_connections_as_far_as_there_are_descriptors(monkeypatch, soft, hard, connections, accepted, raised):
    resource, limits = pytest.importorskip("resource"), []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limit: limits.append(limit))
    server = _server()
    assert (server.front.connections, server.config.backlog) == (connections, accepted)
    assert limits == ([] if raised is None else [(raised, hard)])


@contextmanager
def _running(server, kind=socket.socket):
    """Serve from a thread; yields the address."""
    started, startup = threading.Event(), server.startup

    async def begun(sockets=None):
        await startup(sockets)
        started.set()

    server.startup = begun
    with kind() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            assert started.wait(30)
            yield listening.getsockname()
        finally:
            server.should_exit = True
            thread.join(30)


def _raw(place, data):
    received = b""
    with socket.create_connection(place, timeout=30) as connection:
        connection.sendall(data)
        with suppress(ConnectionError):  # closed with bytes of ours unread
            while chunk := connection.recv(65536):
                received += chunk
    return received


# In a process of its own, by real signals


class Process:
    """A server whose log is read line by line: what it says is what is waited for."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        words = ["--port", self.url.rpartition(":")[2], "--catalog", str(CATALOG), "--model", "tiny", "--device", "cpu"]
        self.of = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--log-format", "json", *words],
            cwd=Path(__file__).parent.parent,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "2", "HEATLENS_DRAIN_TIMEOUT_S": "120"},
        )

    def says(self, *wanted: str) -> None:
        """Wait until it has logged all of these."""
        left = set(wanted)
        for line in self.of.stderr:
            left -= {text for text in left if text in json.loads(line)["message"]}
            if not left:
                return
        pytest.fail(f"it ended without a word of {left}")


@pytest.fixture
def process() -> Iterator[Process]:
    process = Process()
    try:
        process.says("model tiny ready", "Uvicorn running on")
        yield process
    finally:
        process.of.kill()
        process.of.communicate()


def _explain(url: str, accepted: threading.Event) -> list[str]:
    """Ask for something that takes a while; return the names of the events of its answer."""
    events = []
    body = {"params": {"steps": 200, "channels": [0, 1]}, "output": {"array": "none"}}
    with (
        suppress(httpx.TransportError),
        httpx.stream(
            "POST", f"{url}/explain/filters", json=body, headers={"accept": "text/event-stream"}, timeout=120
        ) as response,
    ):
        for line in response.iter_lines():
            if line.startswith("event: "):
                events.append(line.removeprefix("event: "))
                accepted.set()
    return events


@pytest.mark.parametrize("signals", [1, 2])
def test_signals_of_a_process(process, signals):
    """One: whoever was let in is answered, nobody else is, and the process ends well. Another one: it ends at once."""
    accepted = [threading.Event() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(_explain, process.url, event) for event in accepted]
        assert all(event.wait(60) for event in accepted)
        process.of.send_signal(signal.SIGTERM)
        process.says("SIGTERM: finishing what was accepted")
        for verb, path in (("GET", "/health/ready"), ("POST", "/predict")):
            refused = httpx.request(verb, process.url + path)
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:heatlens:problem:draining")
            assert int(refused.headers["retry-after"]) >= 1
        if signals == 2:
            process.of.send_signal(signal.SIGTERM)
            process.says("stopping at once")
        ends = {answer.result(120)[-1] for answer in answers}
    assert ends == {"result"} if signals == 1 else "result" not in ends
    assert process.of.wait(60) == (0 if signals == 1 else 128 + signal.SIGTERM)


def test_connections_that_come_at_once_are_taken_a_few_a_round_and_the_others_wait(monkeypatch):
    """asyncio takes as many in one round as may wait, and nobody is answered meanwhile."""
    waiting = []

    class Listening(socket.socket):
        def listen(self, backlog):
            waiting.append(backlog)

    async def started(self, sockets=None):
        self.servers = [SimpleNamespace(sockets=[SimpleNamespace(dup=Listening)])]

    monkeypatch.setattr(uvicorn.Server, "startup", started)
    server = _server()
    asyncio.run(server.startup())
    assert server.config.backlog <= 128
    assert waiting == [2048]


def test_who_still_waits_when_the_drain_time_is_over_is_told(monkeypatch):
    told, server = [], _server()

    async def closed(self, sockets=None):
        told.append("closed")

    monkeypatch.setattr(uvicorn.Server, "shutdown", closed)
    asyncio.run(server.shutdown())  # before the application has started
    server.app.state.context = SimpleNamespace(device=SimpleNamespace(close=lambda wait: told.append(wait)))
    asyncio.run(server.shutdown())
    assert told == ["closed", False, "closed"]

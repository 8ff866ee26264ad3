"""A server whose batches begin when a test lets them, so that what happens meanwhile is no matter of time."""

import base64
import http.client
import logging
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI

from service.api.context import Context
from service.app import create_app
from service.engine.scheduler.work import rows_key
from service.precision import DTYPES
from service.settings import Settings
from tests.conftest import CATALOG, serving_app

PATIENCE_S = 60.0  # of a test that would otherwise hang; nothing here takes a second


def addresses(app: FastAPI) -> list[tuple[str, str]]:
    """Return verb and address of all that an application answers, whether its contract names it or not."""

    def walk(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
        for route in routes:
            if (included := getattr(route, "original_router", None)) is not None:
                yield from walk(included.routes)
            else:
                yield from ((verb, re.sub(r"{[^}]*}", "tiny", route.path)) for verb in sorted(route.methods))

    return list(walk(app.routes))


class Held:
    """A server and its batches of the model `tiny`."""

    def __init__(self, client: httpx.Client, service: Context) -> None:
        self.client, self.service = client, service
        self.batches: list[int] = []  # rows of those that have begun
        self.held = threading.Event()  # one that may not go on
        self.cancelled = threading.Event()  # a request whose client has gone
        self._holds = False
        self._free = threading.Semaphore(0)
        self._ended = threading.Condition()
        self._watch(service.store.get("tiny"), service.device)

    def _watch(self, model: Any, device: Any) -> None:
        forward, release, cancel = model.forward, device.admission.release, device.cancel
        # All rows go by way of `forward`, whole and so many at a time, however fast that turns out to be.
        model.incremental = None
        for precision in DTYPES:
            key = rows_key(model, model.facts.input_shape, precision)
            device.limits.set(key, device.limits.of(key))

        def held(rows: Any, precision: Any = "fp32") -> Any:
            self.batches.append(len(rows))
            if self._holds and not self._free.acquire(blocking=False):
                self.held.set()
                assert self._free.acquire(timeout=PATIENCE_S)
            return forward(rows, precision)

        def released(run: Any) -> None:
            release(run)
            with self._ended:
                self._ended.notify_all()

        def cancelled(run: Any) -> None:
            cancel(run)
            self.cancelled.set()

        model.forward, device.admission.release, device.cancel = held, released, cancelled

    def hold(self, free: int = 0) -> None:
        """Let so many batches go on, and hold all others."""
        self.batches.clear()
        self.held.clear()
        self.cancelled.clear()
        self._free = threading.Semaphore(0)  # what was let go before is no leave for these
        self._holds = True
        self.let(free)

    def let(self, batches: int = 10**6) -> None:
        """Let so many more go on."""
        if batches:
            self._free.release(batches)

    def wait_for_a_batch(self) -> None:
        """Wait until a batch is held."""
        assert self.held.wait(PATIENCE_S)

    def quiet(self) -> bool:
        """Wait until nothing is left of any request; return whether that has come. No batch may be held."""
        device = self.service.device
        with self._ended:
            ended = self._ended.wait_for(lambda: device.admission.waiting_requests == 0, PATIENCE_S)
        device.call(lambda: None)  # after all that the thread was about
        return ended and device.waiting == 0

    @contextmanager
    def busy(self, **asked: Any) -> Iterator[None]:
        """Ask for an explanation elsewhere, and hold its first batch as long as the block lasts."""
        self.hold()
        asking = threading.Thread(target=self.client.post, args=("/explain/occlusion",), kwargs=asked)
        asking.start()
        try:
            self.wait_for_a_batch()
            yield
        finally:
            self.let()
            asking.join()


@contextmanager
def holding(app: FastAPI) -> Iterator[Held]:
    """Serve an application, its batches in hand."""
    with serving_app(app) as client:
        held = Held(client, app.state.context)
        try:
            yield held
        finally:
            held.let()  # a test that fails must not leave the device's thread waiting


@pytest.fixture
def held() -> Iterator[Held]:
    """A server on the small networks, its batches in hand."""
    with holding(create_app(Settings(catalog=CATALOG, device="cpu"))) as found:
        yield found


@pytest.fixture
def body(chelsea: bytes) -> Callable[..., dict[str, Any]]:
    """Make a request's JSON of fields, with a photograph."""
    image = base64.b64encode(chelsea).decode()
    return lambda **fields: {"image": image} | fields


@pytest.fixture
def access() -> Iterator["queue.Queue[Any]"]:
    """Give the access log's records, as they are written: after the last byte of an answer.

    So the line of an answer that a test before has read may be written only now: records of requests that began
    earlier are left out.
    """
    records: queue.Queue[Any] = queue.Queue()
    log, handler, since = logging.getLogger("heatlens.access"), logging.Handler(), time.time()

    def put(record: Any) -> None:
        if record.created - record.seconds >= since - 1e-4:  # to which seconds are rounded
            records.put(record)

    handler.emit = put  # type: ignore[method-assign]
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    yield records
    log.removeHandler(handler)
    log.setLevel(level)


def statuses_of_one_who_sends_all(client: httpx.Client, path: str, kind: str) -> list[int]:
    """Return the status of an answer that is read once 8 MiB are sent, however early it came, and of the next request.

    Most clients read no answer before they have sent all of their body: a connection that ends meanwhile is all that
    they see of a refusal.
    """
    place = urlsplit(str(client.base_url))
    length, piece = 8 * 2**20, bytes(2**16)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    statuses = []
    with socket.create_connection((place.hostname, place.port), timeout=60) as raw:
        for sent in (head.encode(), *(piece for _ in range(length // len(piece)))):
            raw.sendall(sent)
        for more in (b"", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            raw.sendall(more)
            response = http.client.HTTPResponse(raw)
            response.begin()
            response.read()
            statuses.append(response.status)
    return statuses

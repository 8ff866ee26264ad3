"""One request's way through the engine: how long it may take, whether anybody still wants it, and what it used."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from service import spans
from service.errors import Cancelled, DeadlineExceeded
from service.precision import Precision


class Run:
    """The account of one request. Passes are what work is counted in: a row's forward is one, its backward two."""

    def __init__(
        self,
        *,
        timeout_s: float | None = None,
        priority: int = 0,
        expected: int = 0,
        id: str = "",
        progress: Callable[[], None] | None = None,
    ) -> None:
        self.id = id or uuid.uuid4().hex
        self.started = time.monotonic()
        self.limit(timeout_s, priority)
        self.progress = progress  # called on the device thread after each batch: it must not block
        self.sketch: Callable[[], Any] | None = None  # makes a rough explanation of what is done so far
        self.partial: Callable[[], Any] | None = None  # the same in wire form
        self.cancelled = threading.Event()
        self.done = 0  # passes
        self.expected = expected  # passes, as far as is known
        self.admitted_passes = expected  # the same, when it was let in
        self.forwards = 0
        self.backwards = 0
        self.avoided = 0  # rows that were asked for and answered without a forward
        self.batches = 0
        self.batch_rows = 0
        self.stages: dict[str, float] = {}  # seconds by name: read, decode, explain, render, encode
        self.queue_s = 0.0
        self.device_s = 0.0
        self.precision: Precision = "fp32"
        self.cache = "none"
        self.incremental: float | None = None  # share of a plain row's multiplications that each row took

    def limit(self, timeout_s: float | None, priority: int) -> None:
        """Set the deadline, from the run's start on, and the priority."""
        self.deadline = self.started + timeout_s if timeout_s is not None else None
        self.timeout_s = timeout_s
        self.priority = priority

    def check(self) -> None:
        """Raise where the request should not go on.

        Raises:
            Cancelled: the caller has gone.
            DeadlineExceeded: `timeout_s` has run out.
        """
        if self.cancelled.is_set():
            raise Cancelled("the caller has gone")
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise self.late()

    def late(self) -> DeadlineExceeded:
        """Return the error of a request whose time is up."""
        return DeadlineExceeded(
            f"the request took longer than its timeout_s of {self.timeout_s:g} s; raise timeout_s, or ask for less "
            "(a layer with fewer channels, a larger stride, fewer steps)"
        )

    @property
    def time_left_s(self) -> float | None:
        """Time until the deadline; None without one."""
        return max(0.0, self.deadline - time.monotonic()) if self.deadline is not None else None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of the request, and trace it."""
        started = time.perf_counter()
        try:
            with spans.span(name):
                yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - started

    @property
    def left(self) -> int:
        """Passes still to come, as far as is known."""
        return max(0, self.expected - self.done)

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the pace so far; None before there is one."""
        if self.done == 0:
            return None
        return (time.monotonic() - self.started) * self.left / self.done

    def count(self, rows: int, batch_rows: int, seconds: float, *, backwards: int = 0) -> None:
        """Record `rows` forwards and `backwards` done within a batch of `batch_rows`."""
        self.forwards += rows
        self.backwards += backwards
        self.batches += 1
        self.batch_rows += batch_rows
        self.device_s += seconds
        self.advance(rows + 2 * backwards)

    def advance(self, passes: int) -> None:
        """Record progress, whoever's forwards it was."""
        self.done += passes
        self.expected = max(self.expected, self.done)
        if self.progress:
            self.progress()

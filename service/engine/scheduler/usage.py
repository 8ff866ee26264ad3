"""What one request used, of the device and of time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from service import spans
from service.engine.scheduler.timeline import Timeline
from service.precision import Precision


class Usage:
    """The account of one request; it only adds up."""

    def __init__(self) -> None:
        self.forwards = 0  # rows
        self.backwards = 0  # rows, once for each column of an objective
        self.avoided = 0  # rows that were asked for and answered without a forward
        self.batches = 0
        self.batch_rows = 0  # of all these batches, whoever's rows they were
        self.stages: dict[str, float] = {}  # seconds by name: read, decode, explain, render, encode
        self.queue_s = 0.0
        self.device_s = 0.0  # its share of the batches' time
        self.precision: Precision = "fp32"
        self.runtime = "torch"  # what ran rows of scores
        self.cache = "none"
        self.incremental: float | None = None  # share of a plain row's multiplications that each row took
        self.timeline = Timeline() if spans.installed() else None

    def count(self, forwards: int, backwards: int, batch_rows: int, seconds: float) -> None:
        """Record forwards and backwards done within a batch of `batch_rows`, and the share of its time."""
        self.forwards += forwards
        self.backwards += backwards
        self.batches += 1
        self.batch_rows += batch_rows
        self.device_s += seconds
        if self.timeline is not None:
            self.timeline.worked(forwards + 2 * backwards, batch_rows, seconds)

    def asks(self) -> None:
        """Record that something waits for the device."""
        if self.timeline is not None:
            self.timeline.asked()

    def waited(self, seconds: float) -> None:
        """Record the time that something waited until the batch that begins now."""
        self.queue_s += seconds
        if self.timeline is not None:
            self.timeline.began()

    def tell(self) -> None:
        """Add spans of queue and device to the one that this thread is in."""
        if self.timeline is not None:
            self.timeline.tell(self.queue_s, self.device_s, self.batches)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of the request, and trace it."""
        started = time.perf_counter()
        try:
            with spans.span(name):
                yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - started

"""When a request waited for the device and when that worked for it, as spans tell it. Only made where they are sent."""

import time

from service import spans

_EVENTS = 32  # batches that are told one by one


class Timeline:
    """One request's batches: written by the device's thread and whoever asks, read when the request has ended."""

    def __init__(self) -> None:
        self._asked_ns: int | None = None
        self._began_ns: int | None = None
        self._ended_ns = 0
        self._events: list[spans.Event] = []

    def asked(self) -> None:
        """Note that something waits for the device from now on."""
        if self._asked_ns is None:
            self._asked_ns = time.time_ns()

    def began(self) -> None:
        """Note that a batch with some of it begins now."""
        if self._began_ns is None:
            self._began_ns = time.time_ns()

    def worked(self, passes: int, batch_rows: int, seconds: float) -> None:
        """Note that a batch ends now: passes that were charged, rows of whoever, and the share of its seconds."""
        self._ended_ns = time.time_ns()
        if len(self._events) < _EVENTS:
            told = {"heatlens.passes": passes, "heatlens.batch_rows": batch_rows, "heatlens.seconds": seconds}
            self._events.append(spans.Event("batch", self._ended_ns, told))

    def tell(self, queue_s: float, device_s: float, batches: int) -> None:
        """Add the spans `queue` and `device` to the one that this thread is in.

        `queue` lasts until the first batch, `device` from there to the end of the last one: what was waited between
        two batches is within it, and their own sums are told beside.
        """
        if self._asked_ns is None:
            return
        spans.add("queue", self._asked_ns, self._began_ns, {"heatlens.queue_s": queue_s})
        if self._began_ns is not None:
            ended_ns = max(self._ended_ns, self._began_ns)
            told = {"heatlens.device_s": device_s, "heatlens.batches": batches}
            spans.add("device", self._began_ns, ended_ns, told, tuple(self._events))

"""Who is let in: what waits is counted in passes and requests, and how long that takes is measured.

Time goes to the device, by passes, and beside it, by requests: decoding, drawing, refusing. Both are measured of late,
so that what is let in is what will be answered in time, whichever of them is scarce.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from service.engine.scheduler.run import Run
from service.errors import Draining, Overloaded

SMALL_PASSES = 64  # requests of no more are worked off in the order they came; larger ones share
# Times as long as expected that what waits may take: what is let in has to be answered in time. Of large requests the
# expected passes are an upper bound, and make up for the rest.
_SAFETY, _SAFETY_LARGE = 3, 1.25
_LOOK_S = 0.25  # after which a request is read again to see how long callers would wait
_CROWD = 8  # requests under way, from which on more of them would not make the whole faster


class Admission:
    """The requests that wait or are worked on, and how fast they end."""

    def __init__(self, max_waiting_rows: int, max_waiting_requests: int) -> None:
        """Bound passes and requests that may wait."""
        self.max_waiting_rows, self.max_waiting_requests = max_waiting_rows, max_waiting_requests
        self._runs: set[Run] = set()
        self._changed = threading.Condition()
        self._draining = False
        self._recent_rows = self._recent_s = 0.0  # of batches
        self._recent_ended = self._recent_host_s = 0.0  # of requests in a crowd, and what they took beside the device
        self._busy_s = 0.0  # of all batches
        self._patience: deque[float] = deque([math.inf], maxlen=64)  # timeouts of the last requests that were read
        self._looked = 0.0  # when the last one was
        self._crowded: tuple[float, float] | None = None  # when a request last ended in a crowd, and `_busy_s` then

    @property
    def waiting_rows(self) -> int:
        """Passes that admitted requests still expect."""
        with self._changed:
            return sum(run.left for run in self._runs)

    @property
    def waiting_requests(self) -> int:
        """Requests that wait or are worked on."""
        return len(self._runs)

    @property
    def draining(self) -> bool:
        """Whether nothing new is let in any more."""
        return self._draining

    def drain(self, timeout_s: float) -> bool:
        """Let nothing new in, and wait until all that was admitted has ended; return whether it has."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._runs, timeout_s)

    @contextmanager
    def admitted(self, run: Run, passes: int) -> Iterator[None]:
        """Count a request among those that wait, as long as the block lasts.

        Raises:
            Overloaded: too much waits already.
        """
        self.admit(run, passes)
        try:
            yield
        finally:
            self.release(run)

    def admit(self, run: Run, passes: int) -> None:
        """Let a request in that will need about so many passes; `release` has to follow.

        An empty server takes a request of any size; another one is let in as long as it would end before its deadline,
        even if all before it took longer than measured by a margin.

        Raises:
            Overloaded: too much waits already.
        """
        with self._changed:
            self._check_open()
            self._patience.append(run.timeout_s or math.inf)
            self._looked = time.monotonic()
            waiting = self.waiting_rows
            full = len(self._runs) >= self.max_waiting_requests
            too_long_s = self._too_long_s(passes, run.time_left_s)
            if self._runs and (full or too_long_s > 0 or waiting + passes > self.max_waiting_rows):
                raise self._overloaded(waiting, passes, too_long_s)
            run.expected = run.admitted_passes = passes
            self._runs.add(run)

    def _too_long_s(self, passes: int, time_left_s: float | None) -> float:
        """Return by how much what waits is too much for a request to end in time; not above 0: it is not."""
        if time_left_s is None:
            return 0.0
        own_s = passes * self._row_s + self._host_s
        safety = _SAFETY if passes <= SMALL_PASSES else _SAFETY_LARGE
        return self._ahead_s(passes) - max(0.0, time_left_s - own_s) / safety

    def _ahead_s(self, passes: int) -> float:
        """Return the time that what was admitted before a request of so many passes keeps it waiting."""
        ahead = sum(
            other.left if other.admitted_passes <= SMALL_PASSES else min(other.left, passes) for other in self._runs
        )
        return ahead * self._row_s + len(self._runs) * self._host_s

    @property
    def _row_s(self) -> float:
        """Time of a pass on the device, as measured of late."""
        return self._recent_s / self._recent_rows if self._recent_rows else 0.0

    @property
    def _host_s(self) -> float:
        """Time that a request takes beside the device: decoding, drawing, and whatever else uses the processor."""
        return max(0.0, self._recent_host_s / self._recent_ended) if self._recent_ended else 0.0

    def check_room(self) -> None:
        """Turn a request away before its body is read, which would cost those that were let in.

        How long its caller would wait stands in the body: as long as the most patient of late is taken for granted, and
        now and then a body is read to see.

        Raises:
            Overloaded: nothing more would be admitted.
        """
        with self._changed:
            self._check_open()
            waiting = self.waiting_rows
            full = waiting >= self.max_waiting_rows or len(self._runs) >= self.max_waiting_requests
            too_long_s = self._too_long_s(1, max(self._patience)) if self._runs else 0.0
            if full or (too_long_s > 0 and time.monotonic() - self._looked < _LOOK_S):
                raise self._overloaded(waiting, 1, too_long_s)

    def _check_open(self) -> None:
        if self._draining:
            raise Draining("the server is about to stop; send the request again, another one will answer")

    def _overloaded(self, waiting: int, passes: int, too_long_s: float = 0.0) -> Overloaded:
        over = max(waiting + passes - self.max_waiting_rows, waiting / len(self._runs))
        seconds = max(too_long_s, over * self._row_s) if self._row_s or self._host_s else 5.0
        return Overloaded(
            f"{waiting:,} rows of {len(self._runs)} requests wait, and this one needs about {passes:,} more; send "
            "it again later, or ask for less (a layer with fewer channels, a larger stride)",
            retry_after_s=min(3600, max(1, math.ceil(seconds))),
        )

    def release(self, run: Run) -> None:
        """Count a request no longer."""
        with self._changed:
            self._count_ended()
            self._runs.discard(run)
            if self._draining:
                self._changed.notify_all()

    def _count_ended(self) -> None:
        """Measure what a request takes beside the device, while there are enough of them to keep the machine busy."""
        if len(self._runs) < _CROWD:
            self._crowded = None
            return
        now = time.monotonic(), self._busy_s
        if self._crowded is not None:
            beside_s = (now[0] - self._crowded[0]) - (now[1] - self._crowded[1])
            self._recent_ended = 0.98 * self._recent_ended + 1
            self._recent_host_s = 0.98 * self._recent_host_s + beside_s
        self._crowded = now

    def count_batch(self, rows: int, seconds: float) -> None:
        """Take note of the passes (0: none that count) and time of what the device has just done."""
        with self._changed:
            self._busy_s += seconds
            if rows:
                self._recent_rows = 0.95 * self._recent_rows + rows
                self._recent_s = 0.95 * self._recent_s + seconds

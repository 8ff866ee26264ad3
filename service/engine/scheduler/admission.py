"""Who is let in: what waits is counted in passes and requests, and how long that takes is measured.

Time goes to the device, by passes, and beside it, by requests: decoding, drawing, refusing. Both are measured of late,
so that what is let in is what will be answered in time, whichever of them is scarce.

Three rules refine that, each of them removable by itself:

crowd       what requests take beside the device is measured while many are under way (`Crowd`); without it only the
            device counts
patience    a request whose body is not read yet is taken to be as patient as the most patient of late (`Patience`);
            without it, to wait for ever
look-again  one that would be refused by its expected time is read all the same now and then, to see whether callers
            have become more patient; without it, never
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from service.engine.scheduler.run import Run
from service.errors import Draining, Overloaded

AdmissionRule = Literal["crowd", "patience", "look-again"]
SMALL_PASSES = 64  # requests of no more are worked off in the order they came; larger ones share
# Times as long as expected that what waits may take: what is let in has to be answered in time. Of large requests the
# expected passes are an upper bound, and make up for the rest.
_SAFETY, _SAFETY_LARGE = 3, 1.25
_LOOK_S = 0.25  # after which a request is read again to see how long callers would wait
_CROWD = 8  # requests under way, from which on more of them would not make the whole faster


class Pace:
    """The time of a pass on the device, as measured of late."""

    def __init__(self) -> None:
        self.busy_s = 0.0  # of all batches
        self._passes = self._seconds = 0.0

    @property
    def pass_s(self) -> float:
        """Seconds a pass; 0 before any was measured."""
        return self._seconds / self._passes if self._passes else 0.0

    def count(self, passes: int, seconds: float) -> None:
        """Take note of the passes (0: none that count) and time of what the device has just done."""
        self.busy_s += seconds
        if passes:
            self._passes = 0.95 * self._passes + passes
            self._seconds = 0.95 * self._seconds + seconds


class Crowd:
    """The time that a request takes beside the device: decoding, drawing, and whatever else uses the processor.

    It is measured from the end of one request to the end of the next, while there are enough of them to keep the
    machine busy.
    """

    def __init__(self) -> None:
        self._ended = self._seconds = 0.0
        self._last: tuple[float, float] | None = None  # when a request last ended in a crowd, and `busy_s` then

    @property
    def host_s(self) -> float:
        """Seconds a request; 0 before any was measured."""
        return max(0.0, self._seconds / self._ended) if self._ended else 0.0

    def count_ended(self, under_way: int, now: float, busy_s: float) -> None:
        """Take note of the end of one of the requests under way; `busy_s` is the time of all batches so far."""
        if under_way < _CROWD:
            self._last = None
            return
        if self._last is not None:
            beside_s = (now - self._last[0]) - (busy_s - self._last[1])
            self._ended = 0.98 * self._ended + 1
            self._seconds = 0.98 * self._seconds + beside_s
        self._last = now, busy_s


class Patience:
    """How long callers of late were ready to wait, and when that was last looked at."""

    def __init__(self) -> None:
        self._timeouts: deque[float] = deque([math.inf], maxlen=64)
        self._looked = 0.0

    @property
    def longest_s(self) -> float:
        """The timeout of the most patient one."""
        return max(self._timeouts)

    def count_read(self, timeout_s: float | None, now: float) -> None:
        """Take note of a request that was read."""
        self._timeouts.append(math.inf if timeout_s is None else timeout_s)
        self._looked = now

    def is_fresh(self, now: float) -> bool:
        """Whether a request was read just now."""
        return now - self._looked < _LOOK_S


class Admission:
    """The requests that wait or are worked on, and how fast they end. Any thread may ask."""

    def __init__(
        self,
        max_waiting_passes: int,
        max_waiting_requests: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        rules: Collection[AdmissionRule] = get_args(AdmissionRule),
    ) -> None:
        """Bound passes and requests that may wait; rules can be left out to find out what they are good for."""
        self.max_waiting_passes, self.max_waiting_requests = max_waiting_passes, max_waiting_requests
        self._clock, self._rules = clock, frozenset(rules)
        self._changed = threading.Condition()
        self._runs: set[Run] = set()
        self._draining = False
        self._pace, self._crowd, self._patience = Pace(), Crowd(), Patience()

    @property
    def waiting_passes(self) -> int:
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
            Draining: the server is about to stop.
        """
        with self._changed:
            self._check_open()
            self._patience.count_read(run.timeout_s, self._clock())
            waiting = self.waiting_passes
            full = len(self._runs) >= self.max_waiting_requests
            too_long_s = self._too_long_s(passes, run.time_left_s)
            if self._runs and (full or too_long_s > 0 or waiting + passes > self.max_waiting_passes):
                raise self._overloaded(waiting, passes, too_long_s)
            run.expected = run.admitted_passes = passes
            self._runs.add(run)

    def check_room(self) -> None:
        """Turn a request away before its body is read, which would cost those that were let in.

        How long its caller would wait stands in the body: that is what the rules of patience and of looking again are
        for.

        Raises:
            Overloaded: nothing more would be admitted.
            Draining: the server is about to stop.
        """
        with self._changed:
            self._check_open()
            waiting = self.waiting_passes
            full = waiting >= self.max_waiting_passes or len(self._runs) >= self.max_waiting_requests
            patience_s = self._patience.longest_s if "patience" in self._rules else math.inf
            too_long_s = self._too_long_s(1, patience_s) if self._runs else 0.0
            certain = "look-again" not in self._rules or self._patience.is_fresh(self._clock())
            if full or (too_long_s > 0 and certain):
                raise self._overloaded(waiting, 1, too_long_s)

    def release(self, run: Run) -> None:
        """Count a request no longer."""
        with self._changed:
            self._crowd.count_ended(len(self._runs), self._clock(), self._pace.busy_s)
            self._runs.discard(run)
            if self._draining:
                self._changed.notify_all()

    def count_batch(self, passes: int, seconds: float) -> None:
        """Take note of the passes (0: none that count) and time of what the device has just done."""
        with self._changed:
            self._pace.count(passes, seconds)

    @property
    def _host_s(self) -> float:
        return self._crowd.host_s if "crowd" in self._rules else 0.0

    def _too_long_s(self, passes: int, time_left_s: float | None) -> float:
        """Return by how much what waits is too much for a request to end in time; not above 0: it is not."""
        if time_left_s is None:
            return 0.0
        own_s = passes * self._pace.pass_s + self._host_s
        safety = _SAFETY if passes <= SMALL_PASSES else _SAFETY_LARGE
        return self._ahead_s(passes) - max(0.0, time_left_s - own_s) / safety

    def _ahead_s(self, passes: int) -> float:
        """Return the time that what was admitted before a request of so many passes keeps it waiting."""
        ahead = sum(
            other.left if other.admitted_passes <= SMALL_PASSES else min(other.left, passes) for other in self._runs
        )
        return ahead * self._pace.pass_s + len(self._runs) * self._host_s

    def _check_open(self) -> None:
        if self._draining:
            raise Draining("the server is about to stop; send the request again, another one will answer")

    def _overloaded(self, waiting: int, passes: int, too_long_s: float) -> Overloaded:
        over = max(waiting + passes - self.max_waiting_passes, waiting / len(self._runs))
        measured = self._pace.pass_s or self._host_s
        seconds = max(too_long_s, over * self._pace.pass_s) if measured else 5.0
        return Overloaded(
            f"{waiting:,} passes of {len(self._runs)} requests wait, and this one needs about {passes:,} more; send "
            "it again later, or ask for less (a layer with fewer channels, a larger stride)",
            retry_after_s=min(3600, max(1, math.ceil(seconds))),
        )

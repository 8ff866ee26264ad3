"""Who is let in: what waits is counted in passes and requests, and how long that takes is measured.

A request whose body is not read yet is taken to be as patient as the most patient one that its caller sent of late
(`Patience`), and turned away unread where even that one would come too late: reading it would cost those that were let
in. A further rule was tried at four times the capacity and is gone: to measure what requests take beside the device.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.engine.scheduler.run import Run
from service.errors import Draining, Overloaded

SMALL_PASSES = 64  # requests of no more are worked off in the order they came; larger ones share
# Times as long as expected that what waits may take: what is let in has to be answered in time. Of large requests the
# expected passes are an upper bound, and make up for the rest.
_SAFETY, _SAFETY_LARGE = 3, 1.25
_KEPT_S = 10.0  # that a caller's patience is remembered
_READ_ONE_IN = 4  # of those that would be turned away unread
_CALLERS = 4096  # whose patience is remembered, at most


class Pace:
    """The time of a pass on the device, as measured of late."""

    def __init__(self) -> None:
        self._passes = self._seconds = 0.0

    @property
    def pass_s(self) -> float:
        """Seconds a pass; 0 before any was measured."""
        return self._seconds / self._passes if self._passes else 0.0

    def count(self, passes: int, seconds: float) -> None:
        """Take note of the passes (0: none that count) and time of what the device has just done."""
        if passes:
            self._passes = 0.95 * self._passes + passes
            self._seconds = 0.95 * self._seconds + seconds


@dataclass
class _Caller:
    longest_s: float
    until: float
    refused: int = 0


class Patience:
    """How long each caller's requests of late were ready to wait; one of whom nothing is known waits for ever.

    A caller's most patient request stands for all others, so that a few with tiny deadlines shorten no other's time.
    One in so many that are turned away is read all the same, so that a caller who has become more patient is heard.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, _Caller] = OrderedDict()

    def longest_s(self, caller: Hashable, now: float) -> float:
        """Return the timeout of a caller's most patient request of late."""
        known = self._known.get(caller)
        return known.longest_s if known is not None and now < known.until else math.inf

    def count_read(self, caller: Hashable, timeout_s: float | None, now: float) -> None:
        """Take note of a request that was read."""
        timeout_s = math.inf if timeout_s is None else timeout_s
        known = self._known.get(caller)
        if known is None or now >= known.until or timeout_s >= known.longest_s:
            self._known[caller] = _Caller(timeout_s, now + _KEPT_S, known.refused if known is not None else 0)
            self._known.move_to_end(caller)
            if len(self._known) > _CALLERS:
                self._known.popitem(last=False)

    def count_refused(self, caller: Hashable) -> bool:
        """Take note of a request that would be turned away unread; return whether it should be read all the same."""
        if (known := self._known.get(caller)) is None:
            return False
        known.refused += 1
        return known.refused % _READ_ONE_IN == 0


class Admission:
    """The requests that wait or are worked on, and how fast they end. Any thread may ask."""

    def __init__(
        self,
        max_waiting_passes: int,
        max_waiting_requests: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Bound passes and requests that may wait."""
        self.max_waiting_passes, self.max_waiting_requests = max_waiting_passes, max_waiting_requests
        self._clock = clock
        self._changed = threading.Condition()
        self._runs: set[Run] = set()
        self._draining = False
        self._pace, self._patience = Pace(), Patience()

    @property
    def waiting_passes(self) -> int:
        """Passes that admitted requests still expect."""
        with self._changed:
            return sum(run.left for run in self._runs)

    @property
    def waiting_s(self) -> float:
        """Seconds that the device will take for what waits, by the pace of late: what autoscalers go by."""
        with self._changed:
            return self.waiting_passes * self._pace.pass_s

    @property
    def waiting_requests(self) -> int:
        """Requests that wait or are worked on."""
        return len(self._runs)

    @property
    def running_requests(self) -> int:
        """Those of them that the device has done some work for."""
        with self._changed:
            return sum(1 for run in self._runs if run.done)

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
            self._patience.count_read(run.caller, run.timeout_s, self._clock())
            waiting = self.waiting_passes
            full = len(self._runs) >= self.max_waiting_requests
            too_long_s = self._too_long_s(passes, run.time_left_s, run.priority)
            if self._runs and (full or too_long_s > 0 or waiting + passes > self.max_waiting_passes):
                raise self._overloaded(waiting, passes, too_long_s, full)
            run.expected = run.admitted_passes = passes
            self._runs.add(run)

    def check_room(self, caller: Hashable = None, priority: int = 0, *, small: bool = False) -> None:
        """Turn a request away before its body is read, which would cost those that were let in.

        How long it would wait stands in the body: until then, it is as patient as its caller was of late.

        Args:
            caller: whose request it is.
            priority: the highest that it may have.
            small: its body costs next to nothing to read: how patient it is, it says itself.

        Raises:
            Overloaded: nothing more would be admitted.
            Draining: the server is about to stop.
        """
        with self._changed:
            self._check_open()
            waiting = self.waiting_passes
            full = len(self._runs) >= self.max_waiting_requests
            patience_s = math.inf if small else self._patience.longest_s(caller, self._clock())
            too_long_s = self._too_long_s(1, patience_s, priority) if self._runs else 0.0
            too_many = full or waiting >= self.max_waiting_passes
            if too_many or (too_long_s > 0 and not self._patience.count_refused(caller)):
                raise self._overloaded(waiting, 1, too_long_s, full)

    def release(self, run: Run) -> None:
        """Count a request no longer."""
        with self._changed:
            self._runs.discard(run)
            if self._draining:
                self._changed.notify_all()

    def count_batch(self, passes: int, seconds: float) -> None:
        """Take note of the passes (0: none that count) and time of what the device has just done."""
        with self._changed:
            self._pace.count(passes, seconds)

    def _too_long_s(self, passes: int, time_left_s: float | None, priority: int) -> float:
        """Return by how much what waits is too much for a request to end in time; not above 0: it is not."""
        if time_left_s is None:
            return 0.0
        own_s = passes * self._pace.pass_s
        safety = _SAFETY if passes <= SMALL_PASSES else _SAFETY_LARGE
        return self._ahead_s(passes, priority) - max(0.0, time_left_s - own_s) / safety

    def _ahead_s(self, passes: int, priority: int) -> float:
        """Return the time that what was admitted before a request of so many passes keeps it waiting.

        What is less urgent waits for it; what is more urgent goes first down to its last row.
        """
        ahead = sum(
            other.left
            if other.admitted_passes <= SMALL_PASSES or other.priority > priority
            else min(other.left, passes)
            for other in self._runs
            if other.priority >= priority
        )
        return ahead * self._pace.pass_s

    def _check_open(self) -> None:
        if self._draining:
            raise Draining("the server is about to stop; send the request again, another one will answer")

    def _overloaded(self, waiting: int, passes: int, too_long_s: float, full: bool) -> Overloaded:
        over = max(waiting + passes - self.max_waiting_passes, waiting / len(self._runs))
        seconds = max(too_long_s, over * self._pace.pass_s) if self._pace.pass_s else 5.0
        return Overloaded(
            f"{waiting:,} passes of {len(self._runs)} requests wait, and this one needs about {passes:,} more; send "
            "it again later, or ask for less (a layer with fewer channels, a larger stride)",
            retry_after_s=min(3600, max(1, math.ceil(seconds))),
            reason="requests" if full else "time" if too_long_s > 0 else "passes",
        )

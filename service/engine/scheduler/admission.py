"""Who is let in: what waits is counted in passes and requests, and how long that takes is measured.

Callers share the device, so that what a request waits for is its caller's own work, and of the others' what the queue
lets them have meanwhile: as much, by what each has had so far, and no more than they ask for. Neither do a caller's
requests and passes leave none for the next one. So nobody is turned away for what somebody else has waiting.

A request whose body is not read yet is taken to be as patient as the most patient one that its caller sent of late
(`Patience`), and turned away unread where even that one would come too late: reading it would cost those that were let
in. A further rule was tried at four times the capacity and is gone: to measure what requests take beside the device.
"""

import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager

from service.engine.scheduler.estimate.crowd import Crowd
from service.engine.scheduler.estimate.ledger import SMALL_PASSES, Ledger
from service.engine.scheduler.estimate.pace import Pace
from service.engine.scheduler.estimate.patience import Patience
from service.engine.scheduler.run import Run
from service.errors import Draining, Overloaded
from service.fair.portions import Portions
from service.fair.turns import Standing

# Times as long as expected that what waits may take: what is let in has to be answered in time. Of large requests the
# expected passes are an upper bound, and make up for the rest; so is what others may take meanwhile.
_SAFETY, _SAFETY_LARGE = 3, 1.25
_FRESH_S = 0.1  # how old what is known of the passes that are left may be


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
        self.max_waiting_passes = max_waiting_passes
        self._clock = clock
        self._changed = threading.Condition()
        self._ledger, self._looked = Ledger(), clock()
        self._places = Portions(max_waiting_requests)
        self._standings: Mapping[int, Standing] = {}
        self._draining = False
        self._pace, self._patience = Pace(), Patience()

    @property
    def waiting_passes(self) -> int:
        """Passes that admitted requests still expect."""
        with self._changed:
            return sum(run.left for run in self._ledger.runs)

    @property
    def waiting_s(self) -> float:
        """Seconds that the device will take for what waits, by the pace of late: what autoscalers go by."""
        with self._changed:
            return self.waiting_passes * self._pace.pass_s

    @property
    def waiting_requests(self) -> int:
        """Requests that wait or are worked on."""
        return len(self._ledger)

    @property
    def running_requests(self) -> int:
        """Those of them that the device has done some work for."""
        with self._changed:
            return sum(1 for run in self._ledger.runs if run.done)

    @property
    def draining(self) -> bool:
        """Whether nothing new is let in any more."""
        return self._draining

    def drain(self, timeout_s: float) -> bool:
        """Let nothing new in, and wait until all that was admitted has ended; return whether it has."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._ledger, timeout_s)

    @contextmanager
    def admitted(self, run: Run, passes: int, kind: Hashable = None) -> Iterator[None]:
        """Count a request among those that wait, as long as the block lasts.

        Raises:
            Overloaded: too much waits already.
        """
        self.admit(run, passes, kind)
        try:
            yield
        finally:
            self.release(run)

    def admit(self, run: Run, passes: int, kind: Hashable = None) -> None:
        """Let a request in; `release` has to follow.

        A caller without any other takes one of any size; another one is let in as long as it would end before its
        deadline, even if all before it took longer than measured by a margin.

        Args:
            run: the request.
            passes: that it will need, about.
            kind: equal for requests whose rows may share batches.

        Raises:
            Overloaded: too much waits already.
            Draining: the server is about to stop.
        """
        with self._changed:
            self._check_open()
            self._patience.count_read(run.caller, run.timeout_s, self._clock())
            too_long_s = 0.0
            if self._ledger:
                too_long_s = self._too_long_s(passes, run.time_left_s, run.caller, run.priority, kind)
            if too_long_s > 0 or not self._has_room(run.caller, passes):
                raise self._overloaded(run.caller, passes, too_long_s)
            run.expected = run.admitted_passes = passes
            run.kind = kind
            self._ledger.add(run)
            self._places.take(run.caller)

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
            patience_s = math.inf if small else self._patience.longest_s(caller, self._clock())
            too_long_s = self._too_long_s(1, patience_s, caller, priority) if self._ledger else 0.0
            if not self._has_room(caller, 1) or (too_long_s > 0 and not self._patience.count_refused(caller)):
                raise self._overloaded(caller, 1, too_long_s)

    def release(self, run: Run) -> None:
        """Count a request no longer."""
        with self._changed:
            if run in self._ledger:
                self._ledger.remove(run)
                self._places.give(run.caller)
            if self._draining:
                self._changed.notify_all()

    def count_batch(self, passes: int, seconds: float, standings: Mapping[int, Standing] | None = None) -> None:
        """Take note of what the device has just done.

        Args:
            passes: of it; 0: none that count.
            seconds: that it took.
            standings: what callers have had since, by priority.
        """
        with self._changed:
            self._pace.count(passes, seconds)
            self._standings = standings or {}

    def _has_room(self, caller: Hashable, passes: int) -> bool:
        """Return whether what waits leaves room for so many more passes of a caller.

        Who has none waiting has room for any; who has some, as long as all of them together, or its own part of all, is
        within the bound.
        """
        if not self._places.allows(caller):
            return not self._ledger
        ledger = self._waiting()
        if (waiting := ledger.total) + passes <= self.max_waiting_passes:
            return True
        own = ledger.of(caller)[0] if caller else waiting
        part = self.max_waiting_passes // len({caller, *ledger.callers}) if caller else 0
        return not own or own + passes <= part

    def _waiting(self) -> Ledger:
        """Return what waits: what came and went is in it at once, what the device has done since a moment ago is not.

        Where there is too much, many more ask than batches end, and each would look at all that waits to be refused.
        """
        if (now := self._clock()) - self._looked > _FRESH_S:
            self._ledger, self._looked = self._ledger.up_to_date(), now
        return self._ledger

    def _too_long_s(
        self, passes: int, time_left_s: float | None, caller: Hashable, priority: int, kind: Hashable = None
    ) -> float:
        """Return by how much what waits is too much for a request to end in time; not above 0: it is not."""
        if time_left_s is None or math.isinf(time_left_s):
            return 0.0
        standing = self._standings.get(priority, Standing())
        found = Crowd(self._waiting(), passes, caller, priority, kind).ahead(self._pace, standing)
        safety = _SAFETY if passes <= SMALL_PASSES else _SAFETY_LARGE
        most_s = max(0.0, time_left_s - passes * self._pace.pass_s)
        return (found.own + found.others * _SAFETY_LARGE / safety) * self._pace.pass_s - most_s / safety

    def _check_open(self) -> None:
        if self._draining:
            raise Draining("the server is about to stop; send the request again, another one will answer")

    def _overloaded(self, caller: Hashable, passes: int, too_long_s: float) -> Overloaded:
        ledger = self._waiting()
        waiting, count = ledger.total, len(ledger)
        over = max(waiting + passes - self.max_waiting_passes, waiting / count)
        full = not self._places.allows(caller)
        seconds = max(too_long_s, over * self._pace.pass_s) if self._pace.pass_s else 5.0
        own, requests = ledger.of(caller)
        yours = f", of which {own:,} passes of {requests} requests are yours" if caller else ""
        return Overloaded(
            f"{waiting:,} passes of {count} requests wait{yours}, and this one needs about {passes:,} more; send "
            "it again later, or ask for less (a layer with fewer channels, a larger stride)",
            retry_after_s=min(3600, max(1, math.ceil(round(seconds, 3)))),
            reason="requests" if full else "time" if too_long_s > 0 else "passes",
        )

"""One request's way through the engine: how long it may take, whether anybody still wants it, and how far it is."""

import threading
import time
import uuid
from collections.abc import Callable, Hashable
from typing import Any

from service.engine.scheduler.queue.items import IDLE
from service.engine.scheduler.usage import Usage
from service.errors import Cancelled, DeadlineExceeded

__all__ = ["IDLE", "Run"]


class Run:
    """One request. Passes are what work is counted in: a row's forward is one, its backward two."""

    def __init__(
        self,
        *,
        timeout_s: float | None = None,
        priority: int = 0,
        caller: str = "",
        salt: str = "",
        expected: int = 0,
        id: str = "",
        progress: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin a request.

        Args:
            timeout_s: from now on; None: it may take as long as it likes.
            priority: higher ones go first.
            caller: whose request it is. Callers share the device equally.
            salt: of requests with different ones, neither is answered by what was kept of the other.
            expected: passes, as far as is known.
            id: default: a new one.
            progress: called on the device thread after each batch: it must not block.
            clock: seconds that never go back.
        """
        self.id = id or uuid.uuid4().hex
        self.clock = clock
        self.started = clock()
        self.limit(timeout_s, priority)
        self.caller, self.salt = caller, salt
        self.progress = progress
        self.sketch: Callable[[], Any] | None = None  # makes a rough explanation of what is done so far
        self.cancelled = threading.Event()
        self.done = 0  # passes
        self.expected = expected  # passes, as far as is known
        self.admitted_passes = expected  # the same, when it was let in
        self.kind: Hashable = None  # equal for those whose rows may share batches, as far as is known
        self.usage = Usage()

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
        if self.deadline is not None and self.clock() > self.deadline:
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
        return max(0.0, self.deadline - self.clock()) if self.deadline is not None else None

    @property
    def left(self) -> int:
        """Passes still to come, as far as is known."""
        return max(0, self.expected - self.done)

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the pace so far; None before there is one."""
        if self.done == 0:
            return None
        return (self.clock() - self.started) * self.left / self.done

    def advance(self, passes: int) -> None:
        """Record progress, whoever's passes it was."""
        self.done += passes
        self.expected = max(self.expected, self.done)
        if self.progress:
            self.progress()

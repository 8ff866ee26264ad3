"""The server's own steps on the device: when nobody else wants it, and a little of it where that is never."""

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from service.engine.scheduler.run import IDLE, Run
from service.engine.scheduler.work import CallWork, Ticket, Work

T = TypeVar("T")


class Takes(Protocol):
    """What takes work: a `Device`."""

    def put(self, work: Work[T], run: Run) -> Ticket[T]:
        """Queue work."""
        ...

    def call(self, call: Callable[[], T], run: Run | None = None) -> T:
        """Run a function on the device thread and return its result."""
        ...


def when_idle(device: Takes, step: Callable[[], T], patience_s: float) -> T:
    """Run a step on the device thread when nobody else wants it, or, where that is not soon, as a request's.

    Who waits for many times as long as the step before took has a small share of a device that is never idle, and
    nobody waits for more than one step.

    Args:
        device: whose thread.
        step: no longer than a batch.
        patience_s: seconds to wait for idle time.
    """
    begun = threading.Lock()

    def once() -> tuple[T] | None:
        return (step(),) if begun.acquire(blocking=False) else None

    idle = device.put(CallWork(once), Run(priority=IDLE))
    answered = idle.answered(patience_s)
    found = None if answered else device.call(once, Run())
    found = found or idle.wait()
    assert found is not None, "one of both has begun"
    return found[0]

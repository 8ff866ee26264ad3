"""Whether anybody still waits for what a method works out by itself, between what it asks of a network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_check: ContextVar[Callable[[], object]] = ContextVar("heatlens-wanted")


@contextmanager
def wanted(check: Callable[[], object]) -> Iterator[None]:
    """Have `still_wanted` call this, as long as the block lasts, in this thread alone."""
    before = _check.set(check)
    try:
        yield
    finally:
        _check.reset(before)


def still_wanted() -> None:
    """Raise where nobody waits any more. To be called in loops whose length parameters choose.

    Between two questions to the network nothing else tells a method that its caller has gone, or that its time is up.

    Raises:
        ServiceError: of whoever has said when to stop; outside of a request: never.
    """
    check = _check.get(None)
    if check is not None:
        check()

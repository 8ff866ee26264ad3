"""A part of a request that has its own account of what it takes, and goes on and ends with the whole."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.engine.scheduler.run import Run
from service.engine.scheduler.usage import Usage
from service.errors import Cancelled, DeadlineExceeded, EngineUnavailable

ENDING = (Cancelled, DeadlineExceeded, EngineUnavailable)  # errors of the whole, whichever part meets them


@contextmanager
def accounted(whole: Run) -> Iterator[Run]:
    """Give a run for a part of another, whose account is added to the whole's at the end, however that comes."""
    part = piece(whole)
    try:
        yield part
    finally:
        add_up(whole, part)


def piece(whole: Run) -> Run:
    """Return a run for a part of another: cancelled with it, late with it, and seen in its progress."""
    part = Run(priority=whole.priority, caller=whole.caller, salt=whole.salt, id=whole.id, clock=whole.clock)
    part.started, part.deadline, part.timeout_s = whole.started, whole.deadline, whole.timeout_s
    part.cancelled = whole.cancelled
    part.usage.timeline = whole.usage.timeline  # a request has one, however many parts
    seen = 0

    def progress() -> None:
        nonlocal seen
        done, seen = part.done - seen, part.done
        whole.advance(done)

    part.progress = progress
    return part


def add_up(whole: Run, part: Run) -> None:
    """Put what a part took to the whole's account."""
    of, to = part.usage, whole.usage
    to.incremental = _share(to, of)
    # Of several number formats and runtimes that one is told which is not the usual one: its numbers are less exact.
    to.precision = of.precision if of.precision != "fp32" else to.precision
    to.runtime = of.runtime if of.runtime != "torch" else to.runtime
    to.forwards += of.forwards
    to.backwards += of.backwards
    to.avoided += of.avoided
    to.batches += of.batches
    to.batch_rows += of.batch_rows
    to.queue_s += of.queue_s
    to.device_s += of.device_s
    for name, seconds in of.stages.items():
        to.stages[name] = to.stages.get(name, 0.0) + seconds
    if to.cache in ("none", of.cache):
        to.cache = of.cache
    elif of.cache != "none":
        to.cache = "miss"  # some of it was there, and some was not


def _share(a: Usage, b: Usage) -> float | None:
    """Return the share of a plain row's multiplications that each row of both took; None where all took all."""
    parts = [used for used in (a, b) if used.forwards] or [a, b]
    shares = [used.incremental for used in parts]
    if not any(share is not None for share in shares):
        return None
    rows = [max(1, used.forwards) for used in parts]
    return sum(n * (1.0 if share is None else share) for n, share in zip(rows, shares, strict=True)) / sum(rows)

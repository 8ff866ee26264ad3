"""How long a request will wait: never less than the queue then takes, and no more for what others have waiting."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.scheduler.estimate.crowd import Crowd
from service.engine.scheduler.estimate.ledger import SMALL_PASSES, Ledger
from service.engine.scheduler.estimate.pace import Pace
from service.engine.scheduler.queue import Item, Queue
from service.engine.scheduler.run import Run
from service.fair.turns import Standing

CALLERS, PASS_S = "abcd", 0.01


@dataclass
class One:
    """A request whose rows all wait at once."""

    item: Item
    run: Run


class Simulated:
    """A device without one: batches of the pure queue, a pass taking its time."""

    def __init__(self, limit: int) -> None:
        self.queue, self.limit, self.pace, self.waiting = Queue(), limit, Pace(), []
        self.pace.count(limit, limit * PASS_S)

    def put(self, caller: str, kind: tuple[str, int], rows: int, priority: int = 0) -> One:
        run = Run(caller=caller, priority=priority, expected=rows)
        run.kind = kind
        one = One(Item(kind, kind[0], rows, caller, priority), run)
        self.queue.put(one.item)
        self.waiting.append(one)
        return one

    def batch(self) -> int:
        """Work a batch off; return its passes."""
        shares = self.queue.cut(lambda key: self.limit)
        passes = sum(share.rows for share in shares)
        self.queue.charge(shares, passes * PASS_S)
        for share in shares:
            one = next(one for one in self.waiting if one.item is share.item)
            one.run.advance(share.rows)
            if not share.item.rows:
                self.queue.remove(share.item)
                self.waiting.remove(one)
        return passes

    def estimate(self, passes: int, caller: str, priority: int = 0, kind: tuple[str, int] = ("x", 0)) -> int:
        """Return the passes until a request that comes now is done, its own included."""
        standing = self.queue.standings().get(priority, Standing())
        runs = [one.run for one in self.waiting]
        found = Crowd(Ledger(runs), passes, caller, priority, kind).ahead(self.pace, standing)
        return passes + found.own + found.others

    def until_done(self, one: One) -> int:
        total = 0
        while one in self.waiting:
            total += self.batch()
        return total


KINDS = st.tuples(st.just("x"), st.integers(0, 3))  # a network, and a kind of its work
REQUESTS = st.tuples(
    st.sampled_from(CALLERS), KINDS, st.integers(1, 12) | st.integers(1, 300), st.sampled_from([0, 0, 0, 1, -1])
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([1, 4, 8, 16, 32]),
    st.lists(st.tuples(REQUESTS, st.integers(0, 5)), max_size=40),
    REQUESTS,
)
def test_no_estimate_is_below_what_the_queue_takes(limit: int, history: list, request: tuple) -> None:
    """Whatever has come and been worked off before: what callers have had by then is part of it."""
    device = Simulated(limit)
    for put, batches in history:
        device.put(*put)
        for _ in range(batches):
            device.batch()
    caller, kind, rows, priority = request
    estimate = device.estimate(rows, caller, priority, kind)
    assert device.until_done(device.put(caller, kind, rows, priority)) <= estimate


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([4, 8, 16]),
    st.lists(st.tuples(st.sampled_from("bcd"), st.integers(1, 100_000)), min_size=1, max_size=20),
    st.integers(1, 300),
)
def test_a_caller_waits_for_its_share_whatever_others_have_waiting(limit: int, others: list, rows: int) -> None:
    device = Simulated(limit)
    for caller, passes in others:
        device.put(caller, ("x", 0), passes)
    callers = len({caller for caller, _ in others})
    batch = max(limit, 8)
    assert device.estimate(rows, "a") <= (1 + callers) * (rows + 3 * batch) + 2 * batch
    more = Simulated(limit)
    for caller, passes in others:
        more.put(caller, ("x", 0), 1000 * passes + 10_000)
    most = more.estimate(rows, "a")
    for caller, _ in others:
        more.put(caller, ("x", 0), 10**6)
    assert more.estimate(rows, "a") == most  # not by one pass more


def test_alone_nothing_is_ahead() -> None:
    device = Simulated(16)
    assert device.estimate(5, "a") == 5
    device.put("a", ("x", 0), SMALL_PASSES)
    assert device.estimate(5, "a") == 5 + SMALL_PASSES
    device.put("b", ("x", 0), 10, priority=-1)
    assert device.estimate(5, "a", priority=1) <= 5 + 2 * 16

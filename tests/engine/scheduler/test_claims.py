"""Who waits for which work: equal ones are one. No thread, no clock."""

import pytest
import torch

from service.engine.scheduler.cache import ScoreCache
from service.engine.scheduler.claims import Claims
from service.engine.scheduler.run import Run
from service.errors import Cancelled, DeadlineExceeded
from tests.engine.scheduler.doubles import Clock, Recorder, work_of


@pytest.fixture
def claims():
    return Claims(ScoreCache(1000), 0)


def _work(value=1, rows=8, key=None):
    return work_of(Recorder(), value, rows, cache_key=key)


def _error(ticket):
    with pytest.raises((Cancelled, DeadlineExceeded)) as raised:
        ticket.wait()
    return type(raised.value)


def test_a_work_is_for_whoever_asked_first_and_as_urgent_as_the_most_urgent(claims):
    work = _work(key="a")
    first, second = Run(caller="me", priority=1), Run(caller="you", priority=3, timeout_s=9, clock=Clock())
    claims.put(work, first, 0.0)
    assert (work.caller, work.priority, work.deadline, work.since) == ("me", 1, None, 0.0)
    claims.put(_work(key="a"), second, 5.0)
    assert (work.caller, work.priority, work.deadline, work.since) == ("me", 3, 1009.0, 0.0)
    assert len(claims) == 2
    assert len(claims.queue) == 1
    first.cancelled.set()
    claims.cancel(first)
    claims.cut(lambda key: 4, 0.0)
    assert (work.caller, work.priority) == ("you", 3)
    assert len(claims) == 1


def test_what_was_found_answers_the_next_one_at_once(claims):
    run, later = Run(), Run()
    ticket = claims.put(_work(key="a"), run, 0.0)
    (share,) = claims.cut(lambda key: 8, 0.0)
    assert claims.advance(share.item, 8) == [ticket]
    outputs = torch.ones(8, 1)
    assert claims.finish(share.item, outputs) == [ticket]
    assert claims.put(_work(key="a"), later, 0.0).wait() is outputs
    assert (run.usage.cache, later.usage.cache) == ("miss", "hit")
    assert (run.usage.avoided, later.usage.avoided, later.done) == (0, 8, 8)
    assert len(claims) == len(claims.queue) == 0


def test_who_joins_has_what_is_done_already(claims):
    claims.put(_work(rows=20, key="a"), Run(), 0.0)
    (share,) = claims.cut(lambda key: 8, 0.0)
    claims.advance(share.item, 8)
    joined = Run(expected=20)
    claims.put(_work(rows=20, key="a"), joined, 0.0)
    assert (joined.done, joined.left, joined.usage.cache) == (8, 12, "shared")


def test_works_that_are_not_equal_do_not_share(claims):
    works = [_work(key="a"), _work(key="b"), _work(), _work()]
    runs = [Run() for _ in works]
    for work, run in zip(works, runs, strict=True):
        claims.put(work, run, 0.0)
    assert len(claims.queue) == 4
    assert [run.usage.cache for run in runs] == ["miss", "miss", "none", "none"]


def test_what_failed_is_forgotten_and_asked_anew(claims):
    work = _work(key="a")
    ticket = claims.put(work, Run(), 0.0)
    assert claims.forget(work) == [ticket]
    assert claims.forget(work) == []
    again = _work(key="a")
    claims.put(again, run := Run(), 0.0)
    assert run.usage.cache == "miss"
    assert list(claims.queue) == [again]


@pytest.mark.parametrize("how", ["forgotten", "finished", "cancelled"])
def test_what_a_work_holds_is_let_go_of_with_it(claims, how):
    released, work, run = [], _work(), Run()
    work.release = lambda: released.append(work)
    claims.put(work, run, 0.0)
    claims.cut(lambda key: 4, 0.0)
    assert not released
    if how == "forgotten":
        claims.forget(work)
    elif how == "finished":
        claims.finish(work, torch.ones(8, 1))
    else:
        run.cancelled.set()
        claims.cancel(run)
        claims.cut(lambda key: 4, 0.0)
    assert released == [work]


def test_who_has_gone_or_is_late_is_answered_before_the_next_batch(claims):
    clock = Clock()
    runs = [Run(timeout_s=5, clock=clock), Run(), Run()]
    works = [_work(value) for value in range(3)]
    tickets = [claims.put(work, run, 0.0) for work, run in zip(works, runs, strict=True)]
    runs[1].cancelled.set()
    claims.cancel(runs[1])
    clock.now += 6
    (share,) = claims.cut(lambda key: 24, clock())
    assert share.item is works[2]
    assert [_error(ticket) for ticket in tickets[:2]] == [DeadlineExceeded, Cancelled]
    assert len(claims) == 1


def test_where_nobody_wants_a_batch_the_next_one_is_taken(claims):
    unwanted, run = _work(rows=8), Run()
    claims.put(unwanted, run, 0.0)
    claims.put(wanted := _work(rows=8), Run(), 0.0)
    run.cancelled.set()  # and nobody says so
    (share,) = claims.cut(lambda key: 8, 0.0)
    assert share.item is wanted
    assert list(claims.queue) == [wanted]


def test_one_of_two_who_is_late_leaves_the_work_to_the_other(claims):
    clock = Clock()
    late = claims.put(work := _work(key="a"), Run(timeout_s=1, clock=clock), 0.0)
    claims.put(_work(key="a"), Run(timeout_s=50, clock=clock), 0.0)
    clock.now += 2
    assert [share.item for share in claims.cut(lambda key: 8, clock())] == [work]
    assert _error(late) is DeadlineExceeded
    assert work.deadline == 1050.0
    assert len(claims) == 1


def test_time_spent_waiting_is_counted_for_all_who_wait(claims):
    runs = [Run(), Run()]
    for run, now in zip(runs, (1.0, 2.0), strict=True):
        claims.put(_work(key="a"), run, now)
    claims.cut(lambda key: 4, 3.5)
    assert [run.usage.queue_s for run in runs] == [2.5, 1.5]


def test_rows_that_were_not_worked_off_wait_again(claims):
    claims.put(work := _work(), Run(), 0.0)
    batch = claims.cut(lambda key: 8, 0.0)
    claims.worked(batch, 1.0, again=batch)
    assert [share.item for share in claims.cut(lambda key: 8, 0.0)] == [work]


def test_all_can_be_forgotten_at_once(claims):
    tickets = [claims.put(_work(value, key=key), Run(), 0.0) for value, key in enumerate(("a", "a", None))]
    claims.cut(lambda key: 4, 0.0)
    assert set(claims.forget_all()) == set(tickets)
    assert len(claims) == len(claims.queue) == 0
    assert not claims._sharable

"""One request: its deadline, whether it is still wanted, and how far it is."""

import pytest

from service.engine.scheduler.run import Run
from service.errors import Cancelled, DeadlineExceeded
from tests.engine.scheduler.doubles import Clock


def test_a_deadline_counts_from_the_start():
    clock = Clock()
    run = Run(timeout_s=5, clock=clock)
    assert run.time_left_s == 5
    clock.now += 5
    run.check()  # to the last moment
    assert run.time_left_s == 0
    clock.now += 0.001
    with pytest.raises(DeadlineExceeded, match="timeout_s of 5 s"):
        run.check()
    run.limit(6, priority=3)  # what the body says comes later, and counts from the start as well
    run.check()
    assert (run.deadline, run.priority) == (1006.0, 3)


def test_without_a_deadline_there_is_all_the_time_in_the_world():
    run = Run(clock=Clock())
    assert run.time_left_s is None
    run.check()


def test_a_cancelled_one_should_not_go_on():
    run = Run()
    run.cancelled.set()
    with pytest.raises(Cancelled):
        run.check()


def test_progress_is_counted_in_passes():
    clock, told = Clock(), []
    run = Run(expected=40, clock=clock, progress=lambda: told.append(run.done))
    assert (run.left, run.seconds_left) == (40, None)
    clock.now += 2
    run.advance(10)
    assert (run.left, run.seconds_left) == (30, 6.0)
    run.advance(50)  # more than was expected
    assert (run.left, run.expected, run.seconds_left) == (0, 60, 0.0)
    assert told == [10, 60]


def test_each_has_an_id_and_nobody_but_the_unknown_caller():
    assert Run().id != Run().id
    assert Run(id="mine").id == "mine"
    assert (Run().caller, Run(caller="me").caller) == ("", "me")

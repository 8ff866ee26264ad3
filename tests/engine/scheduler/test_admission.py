"""Who is let in: passes and requests are counted, and their time is measured. The clock is ours, and nobody waits."""

import threading
from contextlib import ExitStack, suppress
from typing import get_args

import pytest

from service.engine.scheduler.admission import Admission, AdmissionRule, Crowd, Pace, Patience
from service.engine.scheduler.run import Run
from service.errors import Draining, Overloaded
from tests.engine.scheduler.doubles import Clock

RULES = get_args(AdmissionRule)


@pytest.fixture
def clock():
    return Clock()


def _admission(clock, passes=65_536, requests=512, rules=RULES):
    return Admission(passes, requests, clock=clock, rules=rules)


def test_passes_and_requests_are_counted(clock):
    admission = _admission(clock, 100, 3)
    big, small = Run(), Run()
    with admission.admitted(big, 5000):  # an idle server takes any
        assert admission.waiting_passes == 5000
        with pytest.raises(Overloaded, match="send it again later") as refused:
            admission.admit(small, 1)
        assert "5,000 passes of 1 requests wait" in refused.value.detail
        assert refused.value.retry_after_s >= 1
        with pytest.raises(Overloaded):
            admission.check_room()
        big.advance(4950)
        admission.check_room()
        with admission.admitted(small, 50), pytest.raises(Overloaded):
            admission.admit(Run(), 1)
        with admission.admitted(Run(), 1), admission.admitted(Run(), 1), pytest.raises(Overloaded):
            admission.admit(Run(), 1)  # the number of requests is bounded too
    assert admission.waiting_passes == 0
    assert admission.waiting_requests == 0


def test_retry_after_follows_the_measured_pace(clock):
    admission = _admission(clock, 100)
    admission.count_batch(100, 0.5)  # 200 passes a second
    with admission.admitted(Run(), 1000), pytest.raises(Overloaded) as refused:
        admission.admit(Run(), 100)
    assert refused.value.retry_after_s == 5  # until 1,000 of 1,100 are done


def test_what_would_end_too_late_is_turned_away_at_once(clock):
    admission = _admission(clock)
    admission.count_batch(100, 0.5)  # 200 passes a second
    with admission.admitted(Run(), 1000):  # 5 s of work
        with pytest.raises(Overloaded) as refused:
            admission.admit(Run(timeout_s=8, clock=clock), 900)  # 4.5 s beside as much of the other one
        assert 1 <= refused.value.retry_after_s <= 7
        with (
            admission.admitted(Run(timeout_s=60, clock=clock), 900),
            admission.admitted(Run(timeout_s=2, clock=clock), 10),
        ):
            pass  # a small one takes turns with large ones and does not wait for them
    with admission.admitted(Run(timeout_s=2, clock=clock), 1000):  # alone it may try
        pass
    with ExitStack() as small:
        for _ in range(10):
            small.enter_context(admission.admitted(Run(), 50))  # 2.5 s in all, in the order they came
        with pytest.raises(Overloaded):
            admission.admit(Run(timeout_s=2, clock=clock), 10)
        with admission.admitted(Run(timeout_s=30, clock=clock), 10):
            pass


def test_small_requests_keep_a_larger_margin_than_large_ones(clock):
    """What a large one is expected to take is an upper bound; what a small one is expected to, is what it takes."""
    admission = _admission(clock)
    admission.count_batch(100, 1.0)  # 100 passes a second
    with ExitStack() as ahead:
        for _ in range(4):
            ahead.enter_context(admission.admitted(Run(), 50))  # 2 s
        with admission.admitted(Run(timeout_s=6.51 + 0.01, clock=clock), 50):  # 0.5 s of its own, and thrice 2 s
            pass
        with pytest.raises(Overloaded):
            admission.admit(Run(timeout_s=6.4, clock=clock), 50)
        with admission.admitted(Run(timeout_s=1 + 2.51, clock=clock), 100):  # 1 s of its own, and 1.25 times 2 s
            pass
        with pytest.raises(Overloaded):
            admission.admit(Run(timeout_s=3.4, clock=clock), 100)


def _crowded(clock, rules=RULES):
    """Return an admission that has seen one request end every tenth of a second, while the device did nothing."""
    admission, runs = _admission(clock, rules=rules), [Run() for _ in range(60)]
    for run in runs:
        admission.admit(run, 1)
    admission.admit(Run(timeout_s=1, clock=clock), 1)  # nothing is known yet
    for run in runs[:30]:
        clock.now += 0.1
        admission.release(run)
    return admission


def test_time_beside_the_device_counts(clock):
    """Where decoding and drawing are what is scarce, passes alone would let in far too much."""
    admission = _crowded(clock)
    with pytest.raises(Overloaded) as refused:
        admission.admit(Run(timeout_s=5, clock=clock), 1)  # 31 times 0.1 s, and thrice that is more
    assert 1 <= refused.value.retry_after_s <= 3
    admission.admit(Run(timeout_s=11, clock=clock), 1)
    admission.check_room()  # some callers have all the time in the world
    for _ in range(64):
        with suppress(Overloaded):
            admission.admit(Run(timeout_s=5, clock=clock), 1)
    with pytest.raises(Overloaded):
        admission.check_room()  # as those before it would not wait that long, this one is not even read
    clock.now += 0.3
    admission.check_room()  # until it is time to look again


def _impatient(admission, clock):
    for _ in range(64):
        with suppress(Overloaded):
            admission.admit(Run(timeout_s=5, clock=clock), 1)


def _refuses_unread(admission):
    try:
        admission.check_room()
    except Overloaded:
        return True
    return False


def test_without_the_crowd_only_the_device_counts(clock):
    admission = _crowded(clock, [rule for rule in RULES if rule != "crowd"])
    admission.admit(Run(timeout_s=5, clock=clock), 1)  # it has done nothing
    _impatient(admission, clock)
    assert not _refuses_unread(admission)


@pytest.mark.parametrize(
    ("without", "refuses", "refuses_later"), [("patience", False, False), ("look-again", True, True)]
)
def test_other_rules_say_who_is_not_even_read(clock, without, refuses, refuses_later):
    admission = _crowded(clock, [rule for rule in RULES if rule != without])
    with pytest.raises(Overloaded):
        admission.admit(Run(timeout_s=5, clock=clock), 1)
    _impatient(admission, clock)
    assert _refuses_unread(admission) is refuses
    clock.now += 10
    assert _refuses_unread(admission) is refuses_later


def test_without_any_rule_bounds_and_the_pace_of_the_device_remain(clock):
    admission = _admission(clock, 100, 3, rules=())
    admission.count_batch(100, 0.5)
    with admission.admitted(Run(), 50):
        with pytest.raises(Overloaded):
            admission.admit(Run(), 51)
        with pytest.raises(Overloaded):
            admission.admit(Run(timeout_s=0.1, clock=clock), 1)
        admission.check_room()


def test_draining_lets_nothing_in_and_waits_for_the_rest(clock):
    admission, run = _admission(clock), Run()
    admission.admit(run, 1)
    assert not admission.drain(0)
    assert admission.draining
    with pytest.raises(Draining):
        admission.admit(Run(), 1)
    with pytest.raises(Draining):
        admission.check_room()
    found = []
    draining = threading.Thread(target=lambda: found.append(admission.drain(20)))
    draining.start()
    admission.release(run)
    draining.join(20)
    assert found == [True]


def test_the_pace_is_that_of_late():
    pace = Pace()
    assert pace.pass_s == 0
    pace.count(0, 3.0)  # a call: the device was busy, but with nothing that counts
    assert (pace.pass_s, pace.busy_s) == (0, 3.0)
    for _ in range(200):
        pace.count(10, 1.0)
    assert pace.pass_s == pytest.approx(0.1)
    for _ in range(200):
        pace.count(10, 5.0)
    assert pace.pass_s == pytest.approx(0.5, rel=1e-3)


def test_a_crowd_is_measured_between_the_ends_of_requests_and_beside_the_device():
    crowd = Crowd()
    crowd.count_ended(8, now=0.0, busy_s=0.0)
    assert crowd.host_s == 0
    crowd.count_ended(8, now=1.0, busy_s=0.75)
    assert crowd.host_s == pytest.approx(0.25)
    crowd.count_ended(7, now=100.0, busy_s=0.75)  # too few to keep the machine busy
    crowd.count_ended(8, now=200.0, busy_s=0.75)  # and nothing to measure from
    assert crowd.host_s == pytest.approx(0.25)
    crowd.count_ended(8, now=200.5, busy_s=0.75)
    assert crowd.host_s == pytest.approx((0.98 * 0.25 + 0.5) / 1.98)


def test_patience_is_that_of_the_last_64():
    patience = Patience()
    assert patience.longest_s == float("inf")
    patience.count_read(7.0, now=1.0)
    for _ in range(63):
        patience.count_read(5.0, now=2.0)
    assert patience.longest_s == 7
    patience.count_read(5.0, now=3.0)
    assert patience.longest_s == 5
    patience.count_read(None, now=4.0)
    assert patience.longest_s == float("inf")
    assert patience.is_fresh(4.2)
    assert not patience.is_fresh(4.3)

"""Who is let in: passes and requests are counted, and their time is measured. The clock is ours, and nobody waits."""

import threading
from collections import Counter
from contextlib import ExitStack, suppress

import pytest

from service.engine.scheduler.admission import Admission
from service.engine.scheduler.estimate.patience import Patience
from service.engine.scheduler.run import Run
from service.errors import Draining, Overloaded
from service.fair.turns import Standing
from tests.engine.scheduler.doubles import Clock


@pytest.fixture
def clock():
    return Clock()


def _admission(clock, passes=65_536, requests=512, rate=None):
    """Return an admission, where so many passes a second were measured."""
    admission = Admission(passes, requests, clock=clock)
    for _ in range(100 if rate else 0):
        admission.count_batch(5, 5 / rate)
    return admission


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
        clock.now += 1  # what is done is seen a moment later
        admission.check_room()
        with admission.admitted(small, 50), pytest.raises(Overloaded):
            admission.admit(Run(), 1)
        with admission.admitted(Run(), 1), admission.admitted(Run(), 1), pytest.raises(Overloaded):
            admission.admit(Run(), 1)  # the number of requests is bounded too
    assert admission.waiting_passes == 0
    assert admission.waiting_requests == 0


def test_retry_after_follows_the_measured_pace(clock):
    admission = _admission(clock, 100, rate=200)
    with admission.admitted(Run(), 1000), pytest.raises(Overloaded) as refused:
        admission.admit(Run(), 100)
    assert refused.value.retry_after_s == 5  # until 1,000 of 1,100 are done


def test_what_would_end_too_late_is_turned_away_at_once(clock):
    admission = _admission(clock, rate=200)
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
    admission = _admission(clock, rate=100)
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


def _refuses_unread(admission, caller="a"):
    try:
        admission.check_room(caller)
    except Overloaded:
        return True
    return False


def _ask(admission, clock, caller, timeout_s):
    with suppress(Overloaded):
        admission.admit(Run(timeout_s=timeout_s, caller=caller, clock=clock), 1)


def _busy(clock):
    """Return an admission with 10 s of work of each of two callers, of whom nothing else is known."""
    admission = _admission(clock, rate=100)
    for _ in range(20):
        admission.admit(Run(caller="a"), 50)
        admission.admit(Run(caller="b"), 50)
    admission._patience = Patience()
    return admission


def test_who_would_not_wait_is_not_even_read(clock):
    admission = _busy(clock)
    assert not _refuses_unread(admission)  # nothing is known of this caller
    _ask(admission, clock, "a", 2)
    assert _refuses_unread(admission)
    assert not _refuses_unread(admission, "b")  # whose patience is its own
    _ask(admission, clock, "a", 60)
    _ask(admission, clock, "a", 0.001)
    assert not _refuses_unread(admission)  # the most patient one stands for all
    clock.now += 9.9
    assert not _refuses_unread(admission)
    clock.now += 0.2
    _ask(admission, clock, "a", 2)
    assert _refuses_unread(admission)


def test_one_in_four_is_read_all_the_same(clock):
    """For a caller who has become more patient is heard by that alone, however many tiny deadlines it sends beside."""
    admission = _busy(clock)
    read = []
    for _ in range(64):
        _ask(admission, clock, "a", 0.001)
        read.append(not _refuses_unread(admission))
        clock.now += 0.01
    assert sum(read) == 16


def test_a_small_body_says_itself_how_patient_it_is(clock):
    """So that tiny deadlines of others at one address shorten nobody's patience but their own."""
    admission = _busy(clock)
    for _ in range(64):
        _ask(admission, clock, "a", 0.001)
        admission.check_room("a", small=True)
    assert _refuses_unread(admission)
    admission.admit(Run(timeout_s=60, caller="a", clock=clock), 1)


def test_what_is_less_urgent_keeps_nobody_waiting(clock):
    """And what is more urgent goes first, all of it, however large it is."""
    admission = _admission(clock, rate=100)
    with admission.admitted(Run(priority=3), 1000):  # 10 s
        for priority, refused in ((4, False), (3, False), (2, True), (0, True)):
            run = Run(timeout_s=2, priority=priority, clock=clock)
            with pytest.raises(Overloaded) if refused else admission.admitted(run, 10):
                if refused:
                    admission.admit(run, 10)


def test_an_idle_server_reads_whatever_comes(clock):
    admission = _admission(clock)
    admission.count_batch(1, 10.0)
    _ask(admission, clock, "a", 0.001)
    for run in list(admission._ledger.runs):
        admission.release(run)
    assert not _refuses_unread(admission)


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


# Callers


def _two_thousand_passes_of(admission, caller):
    for _ in range(20):
        admission.admit(Run(caller=caller), 100)


def test_nobody_is_turned_away_for_what_somebody_else_has_waiting(clock):
    admission = _admission(clock, passes=2000, requests=40, rate=100)
    _two_thousand_passes_of(admission, "greedy")  # 20 s, and all passes that may wait
    with pytest.raises(Overloaded, match="of which 2,000 passes of 20 requests are yours"):
        admission.admit(Run(caller="greedy"), 1)
    admission.check_room("honest")
    with admission.admitted(Run(caller="honest", timeout_s=3, clock=clock), 10), pytest.raises(Overloaded):
        admission.admit(Run(caller="greedy", timeout_s=3, clock=clock), 10)
    with admission.admitted(Run(caller="honest"), 5000):  # who has nothing else may ask for anything
        pass
    for passes in (10, 990):  # half of all is its own
        admission.admit(Run(caller="honest"), passes)
    with pytest.raises(Overloaded):
        admission.admit(Run(caller="honest"), 1)


def test_one_caller_leaves_places_for_the_next_one(clock):
    admission = _admission(clock, requests=40)
    let_in = Counter()
    for _ in range(50):
        for caller in ("a", "b", "c"):
            with suppress(Overloaded):
                admission.admit(Run(caller=caller), 1)
                let_in[caller] += 1
    assert let_in == {"a": 12, "b": 12, "c": 12}  # each holds three times what is free
    for caller in "defg":
        admission.admit(Run(caller=caller), 1)
    with pytest.raises(Overloaded):
        admission.admit(Run(caller="h"), 1)  # but all together have their bound
    assert admission.waiting_requests == 40


def test_who_has_had_more_waits_for_those_who_have_had_less(clock):
    admission = _admission(clock, rate=100)
    _two_thousand_passes_of(admission, "late")

    def waits(had, timeout_s):
        admission.count_batch(5, 0.05, {0: Standing({"early": had, "late": 1.0}, start=1.0)})
        with suppress(Overloaded), admission.admitted(Run(caller="early", timeout_s=timeout_s, clock=clock), 1):
            return False
        return True

    assert waits(had=11.0, timeout_s=10)  # 10 s of the other one first
    assert not waits(had=11.0, timeout_s=20)
    assert not waits(had=1.0, timeout_s=1)
    assert not waits(had=0.0, timeout_s=1)

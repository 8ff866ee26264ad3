"""Who is let in: passes and requests are counted, and their time is measured. The clock is ours, and nobody waits."""

import threading
from contextlib import ExitStack, suppress

import pytest

from service.engine.scheduler.admission import Admission, Pace, Patience
from service.engine.scheduler.run import Run
from service.errors import Draining, Overloaded
from tests.engine.scheduler.doubles import Clock


@pytest.fixture
def clock():
    return Clock()


def _admission(clock, passes=65_536, requests=512):
    return Admission(passes, requests, clock=clock)


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
    """Return an admission with 10 s of work, at 100 passes a second."""
    admission = _admission(clock)
    admission.count_batch(100, 1.0)
    for _ in range(20):
        admission.admit(Run(caller="others"), 50)
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
    admission = _admission(clock)
    admission.count_batch(100, 1.0)  # 100 passes a second
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
    for run in list(admission._runs):
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


def test_the_pace_is_that_of_late():
    pace = Pace()
    assert pace.pass_s == 0
    pace.count(0, 3.0)  # a call: the device was busy, but with nothing that counts
    assert pace.pass_s == 0
    for _ in range(200):
        pace.count(10, 1.0)
    assert pace.pass_s == pytest.approx(0.1)
    for _ in range(200):
        pace.count(10, 5.0)
    assert pace.pass_s == pytest.approx(0.5, rel=1e-3)


def test_the_patience_of_callers_takes_bounded_memory(monkeypatch):
    monkeypatch.setattr("service.engine.scheduler.admission._CALLERS", 2)
    patience = Patience()
    for caller in "abc":
        patience.count_read(caller, 7.0, now=1.0)
    assert [patience.longest_s(caller, 1.0) for caller in "abc"] == [float("inf"), 7, 7]
    patience.count_read("b", None, now=2.0)
    patience.count_read("d", 5.0, now=2.0)
    assert [patience.longest_s(caller, 2.0) for caller in "bcd"] == [float("inf"), float("inf"), 5]
    assert patience.longest_s("d", 12.0) == float("inf")
    assert not patience.count_refused("unheard of")

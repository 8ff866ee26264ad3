"""How many rows a batch may have."""

import pytest

from service.engine.scheduler.limits import Limits


def test_before_anything_is_measured_few_rows_are_tried():
    assert Limits(256, 8).of("a") == 8
    assert Limits(4, 8).of("a") == 4
    assert Limits(16).of("a") == 16


def test_what_was_measured_holds_for_its_own_key():
    limits = Limits(64, 8)
    limits.set("a", 24)
    limits.set("b", 1000)
    limits.set("c", 0)
    assert [limits.of(key) for key in "abcd"] == [24, 64, 1, 8]


def test_running_out_of_memory_halves_whatever_was_measured():
    limits = Limits(64)
    limits.set("a", 24)
    limits.too_many("a", 24)
    assert limits.of("a") == 12
    limits.set("a", 32)  # measured again: memory has not become more
    assert limits.of("a") == 12
    limits.too_many("a", 1)
    assert limits.of("a") == 1


def test_as_many_rows_as_memory_allows_and_at_least_one():
    limits = Limits(64, max_bytes=1000)
    assert [limits.fitting(size) for size in (0, 1, 100, 999, 5000)] == [64, 64, 10, 1, 1]


def _batches(limits, seconds_of, count=40):
    """Return the sizes of full batches, one after another, that take so many seconds by their size."""
    sizes = []
    for _ in range(count):
        rows = limits.of("a")
        sizes.append(rows)
        limits.worked("a", rows, seconds_of(rows))
    return sizes


def test_batches_grow_while_that_pays():
    limits = Limits(256, 8, max_s=10)
    limits.begin("a", 1000)
    sizes = _batches(limits, lambda rows: 0.02 + 0.01 * rows)
    assert sizes[:8] == [8] * 4 + [16] * 4
    assert limits.of("a") == 64  # twice as many bring less than a fiftieth


@pytest.mark.parametrize(
    ("seconds_of", "fitting", "most"),
    [
        (lambda rows: 0.01 * rows, 1000, 8),  # nothing is gained
        (lambda rows: 0.01 * rows**0.5, 40, 32),  # memory ends it
        (lambda rows: 0.01 * rows**0.5, 1000, 64),  # the largest batch there may be
        (lambda rows: 0.06 * rows**0.5, 1000, 8),  # a batch would take too long
    ],
)
def test_growing_ends(seconds_of, fitting, most):
    limits = Limits(64, 8, max_s=0.25)
    limits.begin("a", fitting)
    _batches(limits, seconds_of)
    assert limits.of("a") == most
    assert "a" not in limits._growing


def test_what_is_measured_or_too_many_ends_the_growing():
    limits = Limits(64, 8, max_s=10)
    limits.begin("a", 1000)
    limits.set("a", 5)
    _batches(limits, lambda rows: 0.1)
    assert limits.of("a") == 5
    limits.begin("b", 1000)
    limits.too_many("b", 8)
    limits.worked("b", 4, 0.1)
    assert limits.of("b") == 4
    limits.begin("c", 3)
    assert limits.of("c") == 3


def test_nothing_is_learned_of_batches_that_are_not_full():
    limits = Limits(64, 8, max_s=10)
    limits.begin("a", 1000)
    for _ in range(20):
        limits.worked("a", 7, 0.1)
        limits.worked("unknown", 8, 0.1)
    assert limits.of("a") == 8


def test_traces_are_cut_by_what_their_rows_take():
    limits = Limits(64, 8, max_trace_bytes=1000)
    limits.weigh("a", None)
    assert limits.of("a") == 1  # nobody knows yet
    limits.weigh("a", 300)
    assert limits.of("a") == 3
    limits.weigh("a", 5000)
    assert limits.of("a") == 1
    limits.weigh("a", 10)
    assert limits.of("a") == 8
    limits.too_many("a", 4)
    assert limits.of("a") == 2
    limits.forget("a")
    assert limits.of("a") == limits.of("never weighed") == 8


def test_of_kinds_that_callers_make_up_only_the_last_are_known():
    limits = Limits(64, 8, max_trace_bytes=1000)
    for key in range(10_000):
        limits.weigh("kept", 500)
        limits.weigh(key, 1000)
    assert (limits.of("kept"), limits.of(9_999), limits.of(0)) == (2, 1, 8)
    assert len(limits._weighed) < 5000


def test_who_lacks_memory_is_told_apart_from_who_does_not():
    limits, one, other = Limits(64), object(), object()
    before = limits.lacked_beside(one)
    limits.lacked(one)
    assert limits.lacked_beside(one) == before
    limits.lacked(other)
    limits.lacked(None)  # the server's own steps
    assert limits.lacked_beside(one) == before + 2

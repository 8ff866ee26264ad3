import pytest

from service.comparison.pieces import ENDING, accounted, add_up, piece
from service.engine.scheduler.run import Run
from service.errors import Cancelled, DeadlineExceeded, EngineUnavailable


def test_a_part_is_seen_in_the_whole() -> None:
    told: list[int] = []
    whole = Run(expected=100, progress=lambda: told.append(whole.done))
    first, second = piece(whole), piece(whole)
    first.advance(3)
    second.advance(2)
    first.advance(4)
    assert told == [3, 5, 9]
    assert (first.done, second.done, whole.done, whole.expected) == (7, 2, 9, 100)


def test_a_part_ends_with_the_whole() -> None:
    now = 0.0
    whole = Run(timeout_s=10, clock=lambda: now)
    part = piece(whole)
    part.check()
    now = 11.0
    with pytest.raises(DeadlineExceeded, match="10 s"):
        part.check()
    whole.cancelled.set()
    with pytest.raises(Cancelled):
        part.check()


def test_accounts_add_up() -> None:
    whole, part, other = Run(), Run(), Run()
    part.usage.count(3, 1, 8, 0.5)
    other.usage.count(2, 0, 4, 0.25)
    part.usage.avoided, part.usage.queue_s = 7, 1.5
    part.usage.cache, other.usage.cache = "hit", "hit"
    add_up(whole, part)
    add_up(whole, other)
    used = whole.usage
    assert (used.forwards, used.backwards, used.avoided, used.batches, used.batch_rows) == (5, 1, 7, 2, 12)
    assert (used.device_s, used.queue_s, used.cache) == (0.75, 1.5, "hit")
    other.usage.cache = "miss"
    add_up(whole, other)
    assert used.cache == "miss"


@pytest.mark.parametrize("error", [*ENDING, ValueError])
def test_what_a_part_took_counts_however_it_ends(error: type[Exception]) -> None:
    whole = Run()
    with accounted(whole) as part:
        part.usage.count(3, 0, 3, 0.5)
        assert whole.usage.forwards == 0

    def fail() -> None:
        with accounted(whole) as part:
            part.usage.count(4, 2, 4, 0.5)
            raise error("it failed")

    with pytest.raises(error):
        fail()
    assert (whole.usage.forwards, whole.usage.backwards) == (7, 2)


def test_what_ends_the_whole_is_of_no_part() -> None:
    assert set(ENDING) == {Cancelled, DeadlineExceeded, EngineUnavailable}


def test_the_less_exact_format_and_the_other_runtime_are_those_of_the_whole() -> None:
    whole, part, other = Run(), Run(), Run()
    part.usage.precision, part.usage.runtime = "bf16", "openvino"
    add_up(whole, part)
    add_up(whole, other)  # what is measured beside, in float32
    assert (whole.usage.precision, whole.usage.runtime) == ("bf16", "openvino")


def test_the_arithmetic_of_a_row_is_that_of_all_rows_on_average() -> None:
    whole, quick, plain, known = Run(), Run(), Run(), Run()
    add_up(whole, Run())
    assert whole.usage.incremental is None
    quick.usage.forwards, quick.usage.incremental = 30, 0.2
    plain.usage.forwards = 10
    known.usage.incremental = 0.1  # whose rows were all in memory
    for part in (quick, plain, known):
        add_up(whole, part)
    assert whole.usage.incremental == pytest.approx((30 * 0.2 + 10) / 40)
    only = Run()
    add_up(only, known)
    assert only.usage.incremental is not None

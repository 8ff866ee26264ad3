"""A short form of `python -m tests.fuzz.bodies`."""

from tests.fuzz.bodies import fuzz, make


def test_changed_bodies() -> None:
    tally = fuzz(400, seed=1)
    assert not tally.failures, tally.table()
    assert tally.statuses.total() == 400
    assert min(tally.statuses[status] for status in (200, 400, 422)) > 10  # some are right, others wrong in many ways


def test_a_case_can_be_made_again() -> None:
    assert make(3, 7)[:3] == make(3, 7)[:3] != make(3, 8)[:3]

"""The pace of the device, by what it has just done."""

import pytest

from service.engine.scheduler.estimate.pace import Pace
from service.engine.scheduler.queue import QUANTUM


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


def test_a_batch_is_as_large_as_large_ones_were_of_late():
    pace = Pace()
    assert pace.batch == QUANTUM
    for passes in (40, 3, 0):
        pace.count(passes, 0.1)
    assert pace.batch == 40
    for _ in range(200):
        pace.count(16, 0.1)
    assert pace.batch == 16

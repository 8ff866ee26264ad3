"""What is measured: the least of several rounds, each of them a short step."""

import math
from types import SimpleNamespace

import pytest

from service.engine.incremental import costs
from service.engine.incremental.costs import Costs
from service.engine.incremental.recording.writing import write_down
from tests import tiny
from tests.engine.incremental.checks import noise


class Canned:
    """A device whose steps take what they are told: rounds of operators, and then copying."""

    def __init__(self, rounds, copying):
        self.rounds, self.copying, self.steps = rounds, copying, []

    def __call__(self, step):
        self.steps.append(step.func.__name__)
        return self.copying if step.func is costs._copying else self.rounds[len(self.steps) - 1]


def test_the_least_time_counts_since_others_only_add():
    rounds = [[0.0, 3.0 + i % 3, 9.0 - i] for i in range(8)]
    device = Canned(rounds, 0.5)
    found = Costs.measured(write_down(tiny.classifier(), noise(1, 3, 32, 32)), noise(1, 3, 32, 32), device)
    assert found == Costs((0.0, 3.0, 2.0), 0.5)
    assert found.row == 5.0
    assert device.steps == ["_operators"] * 8 + ["_copying"]


@pytest.mark.parametrize(("second", "rounds"), [(0.0, 8), (0.3, 5), (0.6, 3), (50.0, 2)])
def test_no_round_begins_late_but_there_are_two(monkeypatch, second, rounds):
    """The first one pays for what libraries do once."""
    ticks = iter(range(100))
    monkeypatch.setattr(costs, "time", SimpleNamespace(perf_counter=lambda: next(ticks) * second))
    device = Canned([[0.0, 1.0]] * 8, 1.0)
    Costs.measured(write_down(tiny.classifier(), noise(1, 3, 32, 32)), noise(1, 3, 32, 32), device)
    assert len(device.steps) == rounds + 1


def test_every_operator_has_its_seconds():
    x = noise(1, 3, 32, 32)
    recording = write_down(tiny.classifier(), x)
    found = Costs.measured(recording, x)
    assert len(found.operators) == len(recording.nodes)
    assert found.operators[0] == 0
    assert all(0 < seconds < math.inf for seconds in found.operators[1:])
    assert 0 < found.copying < math.inf
    assert found.row == sum(found.operators)

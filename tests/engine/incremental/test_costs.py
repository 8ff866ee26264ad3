"""What is measured: the least of several rounds, each of them a short step."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

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


def test_estimates_follow_arithmetic():
    recording = write_down(tiny.classifier(), noise(1, 3, 32, 32))
    found = Costs.estimated(recording)
    rates = costs.SHIPPED.get(torch.backends.cpu.get_cpu_capability(), costs.SHIPPED["AVX2"])
    by_name = {node.name: seconds for node, seconds in zip(recording.nodes, found.operators, strict=True)}
    first = next(node for node in recording.nodes if node.name == "conv2d")
    bytes_ = 4 * (math.prod(first.shape) + 3 * 32 * 32)
    expected = math.prod(first.shape) * 3 * 9 / rates.dense + bytes_ / rates.convolved
    assert found.operators[first.index] == pytest.approx(expected, rel=0.5)
    assert found.operators[first.index] >= expected
    assert found.operators[0] == 0
    assert all(seconds < 1e-3 for seconds in by_name.values())
    assert found.copying == 1 / rates.copying


def test_filters_of_single_channels_are_slower_for_what_they_multiply():
    whole, single = (
        write_down(
            nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, groups=groups), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(),
            noise(1, 64, 64, 64),
        )
        for groups in (1, 64)
    )
    dense, alone = Costs.estimated(whole).row, Costs.estimated(single).row
    assert dense > alone > dense / 64


@pytest.mark.parametrize("capability", ["AVX512", "AVX2", "NEON", "DEFAULT"])
def test_every_processor_has_rates(monkeypatch, capability):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    found = Costs.estimated(write_down(tiny.classifier(), noise(1, 3, 32, 32)))
    assert 0 < found.row < 1

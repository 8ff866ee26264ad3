"""The proof finds out what a recording cannot show."""

import pytest
import torch

from service.engine.incremental import Incremental, NotIncremental
from service.engine.incremental.proving import prove
from service.engine.incremental.recording import operators
from service.engine.incremental.recording.writing import write_down
from service.engine.network.variants import EXACT
from tests import tiny
from tests.engine.incremental.checks import Forward, noise


def test_a_wrong_rule_is_found_out_by_the_proof(monkeypatch):
    monkeypatch.setattr(operators, "POINTWISE", operators.POINTWISE | {"cumsum"})
    torch.manual_seed(0)
    network = Forward(lambda m, x: m.head(x.cumsum(2))).eval()
    with pytest.raises(NotIncremental, match="outputs differ"):
        Incremental.of(network, noise(1, 3, 16, 16))


def everywhere(recording):
    """All switches that a plan may have."""
    return lambda window: range(1, recording.furthest + 1)


@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, tiny.functional])
def test_what_is_right_passes_with_the_error_of_rounding(network):
    network, x = network(), noise(2, 3, 32, 32)
    recording = write_down(network, x)
    assert prove(recording, network, x, everywhere(recording)) <= EXACT


@pytest.mark.parametrize("change", [1e-3, float("nan")])
def test_another_network_than_the_recorded_one_fails(change):
    network, x = tiny.classifier(), noise(2, 3, 32, 32)
    recording = write_down(network, x)
    other = tiny.classifier()
    with torch.no_grad():
        other.fc.bias[0] += change * other(x).abs().max()
    with pytest.raises(NotIncremental, match="outputs differ"):
        prove(recording, other, x, everywhere(recording))


def test_each_step_is_handed_over():
    """Two rectangles, and for each of them the network's own rows and those of both switches."""
    network, x = tiny.classifier(), noise(2, 3, 32, 32)
    recording, steps = write_down(network, x), []

    def on_device(step):
        steps.append(step)
        return step()

    prove(recording, network, x, lambda window: (2, recording.furthest, 2), on_device)
    assert len(steps) == 2 * (1 + 2)

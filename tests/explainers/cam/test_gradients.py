import pytest
import torch

from service.contract import Targets
from service.engine.scheduler.run import Run
from service.errors import InvalidParameter
from service.explainers.cam.grad_cam import GradCAM
from service.explainers.cam.gradients import at_layers
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, tiny_input


def test_maps_and_gradients_are_those_of_plain_autograd(small):
    subject, x = small(tiny.classifier), tiny_input()
    (at,) = at_layers(subject.probe(), x, Targets(subject.facts, [2, 4]), ["conv2"], "method")
    for i, target in enumerate((2, 4)):
        a, g = oracles.maps_and_gradients(subject.plain, x, "conv2", target)
        assert_close(at.a, a)
        assert_close(at.g[i], g)
    assert_close(at.outputs, subject.plain(x)[0])


def test_several_layers_are_met_by_one_forward_and_one_backward_a_target(small):
    subject, x, run = small(tiny.classifier), tiny_input(), Run()
    layers = ["relu2", "bn1", "relu2"]
    found = at_layers(subject.probe(run), x, Targets(subject.facts, [2, 4]), layers, "method")
    assert (run.usage.forwards, run.usage.backwards) == (1, 2)
    assert [at.layer for at in found] == layers
    for at in found:
        a, g = oracles.maps_and_gradients(subject.plain, x, at.layer, 4)
        assert_close(at.a, a)
        assert_close(at.g[1], g)


def test_the_default_target_is_decided_by_the_same_forward(small):
    subject, x = small(tiny.classifier), tiny_input()
    (at,) = at_layers(subject.probe(), x, Targets(subject.facts), ["relu2"], "method")
    (top,) = at.targets.chosen(torch.zeros(5))  # decided: other outputs change nothing
    assert top.index == int(subject.plain(x).argmax())
    assert at.g.shape == (1, *at.a.shape)


def test_a_layer_that_is_none_is_refused_with_a_remedy(small):
    with pytest.raises(InvalidParameter, match="did you mean 'conv2'"):
        small(tiny.classifier).explain(GradCAM(layer="conv3"), tiny_input())
    with pytest.raises(InvalidParameter, match="the default layer is 'relu2'"):
        small(tiny.classifier).explain(GradCAM(layer="fc"), tiny_input())
    # Tokens are a grid over the picture, too.
    assert small(tiny.tokens).explain(GradCAM(), tiny_input()).maps[0].array.shape == (4, 4)

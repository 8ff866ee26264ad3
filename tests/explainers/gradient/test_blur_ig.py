from itertools import pairwise

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from service.contract import Targets
from service.explainers.gradient.blur_ig import BlurIG
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.explainers.gradient.test_integrated_gradients import linear
from tests.explainers.gradient.test_saliency import gradients
from tests.oracles import Case
from tests.plain import PlainProbe

TOLERANCE = 1e-3  # rounding decides at some points which ReLU is open


def tolerance(case: Case) -> float:
    """The path begins with nearly constant pictures: rounding decides which of a pool's equals is its largest.

    It is all rounding: in double the two agree to a millionth, below.
    """
    pools = any(isinstance(module, nn.MaxPool2d) for module in case.network.modules())
    return 0.05 if pools else TOLERANCE


def blurred(x: Tensor, deviation: float) -> Tensor:
    """Return a picture (1, 3, H, W) blurred by scipy, in double; its edges go on."""
    kernel = (0, 0, deviation, deviation)
    return torch.from_numpy(gaussian_filter(x.double().numpy(), kernel, mode="nearest", truncate=4))


def oracle(case: Case) -> Tensor:
    """The sum over steps of the picture's change times the gradient half way, one step after the other."""
    return exact(case).float()


def exact(case: Case) -> Tensor:
    """The same in double, but for the network, which has the picture's precision."""
    how = {"steps": 50, "blur": 50.0, **case.params}
    sharp = [blurred(case.x, how["blur"] * (i / how["steps"]) ** 2) for i in range(how["steps"] + 1)]
    middles = torch.cat([(one + other) / 2 for one, other in pairwise(sharp)]).to(case.x)
    g = gradients(case, middles).double()
    changes = [one - other for one, other in pairwise(sharp)]
    return sum(change[0] * one for change, one in zip(changes, g, strict=True)).sum(0)


@pytest.mark.oracle("blur-ig")
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, tiny.functional])
@pytest.mark.parametrize("x", [tiny_input(), oracles.photograph("chelsea", 32)], ids=["noise", "photograph"])
def test_in_double_it_equals_the_definition_whatever_the_pools(small, network, x):
    """Nothing but the network's rounding is between this and float32: the way's points and widths are right."""
    subject, case = small(network), Case(network().double(), x.double(), target=1)
    found = BlurIG().explain(PlainProbe(case.network, subject.facts), case.x, Targets(subject.facts, [1]))
    assert_close(found.maps[0].array.double(), exact(case), 1e-6)


@pytest.mark.oracle("blur-ig")
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, tiny.functional, tiny.tokens])
@pytest.mark.parametrize("params", [{"steps": 20, "blur": 6}, {"steps": 4, "blur": 1.5, "score": "probability"}])
def test_equals_the_definition(small, network, params):
    subject, x = small(network), tiny_input()
    found = subject.explain(BlurIG(**params), x, [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        # What is nearly constant has nearly equal neighbours, so that rounding decides which of them a pool takes.
        assert_close(m.array, oracle(Case(subject.plain, x, target=target, params=params)), TOLERANCE)


@pytest.mark.oracle("blur-ig")
def test_changes_add_up_to_what_the_blur_takes(small):
    """A linear model weighs them, whatever the steps: peers whose widths are those of another step are 37 % off."""
    subject, x = small(linear), tiny_input()
    weight = subject.plain[1].weight.view(2, 3, 32, 32)
    for steps in (4, 33):
        found = subject.explain(BlurIG(steps=steps, blur=7), x, [0, 1])
        for i, m in enumerate(found.maps):
            assert_close(m.array, (weight[i] * (x - blurred(x, 7))[0]).sum(0).float(), 1e-5)
        assert max(map(abs, found.details["completeness_residual"])) < 1e-5


def test_the_border_of_a_flat_picture_does_not_matter(small):
    """Zeros around it, as a peer has them, would darken it."""
    found = small(tiny.classifier).explain(BlurIG(steps=8), torch.full((1, 3, 32, 32), 0.8), [1])
    assert float(found.maps[0].array.abs().max()) < 1e-5


def test_what_the_sum_misses_is_said_and_shrinks(small):
    subject, x = small(tiny.classifier), tiny_input()
    few, many = (subject.explain(BlurIG(steps=steps, blur=6), x, [1]) for steps in (4, 200))
    change = float((subject.plain(x) - subject.plain(blurred(x, 6).float()))[0, 1])
    for found in (few, many):
        assert found.details["change"] == pytest.approx([change], abs=1e-5)
        missing = float(found.maps[0].array.sum()) - change
        assert found.details["completeness_residual"] == pytest.approx([missing], abs=1e-5)
    assert abs(many.details["completeness_residual"][0]) < 8e-3 * abs(change)

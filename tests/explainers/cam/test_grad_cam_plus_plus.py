import pytest
import torch
from torch import Tensor, nn

from service.explainers.cam.grad_cam_plus_plus import GradCAMPlusPlus
from tests import oracles, tiny
from tests.explainers.cam.test_cam import HEADS
from tests.explainers.conftest import assert_close, module_layer, tiny_input
from tests.oracles import Case


def oracle(case: Case) -> Tensor:
    """ReLU(sum_k w_k A_k) with the paper's alpha of second and third powers, position by position, in double."""
    a, g = (of.double() for of in oracles.maps_and_gradients(case.network, case.x, case.layer, case.target))
    weights = []
    for plane, slope in zip(a, g, strict=True):
        numerator = slope**2
        denominator = 2 * slope**2 + plane.sum() * slope**3
        alpha = torch.where(denominator > 0, numerator / denominator, 0)
        weights.append((alpha * slope.clamp_min(0)).sum())
    return oracles.weighted_sum(weights, a).clamp_min(0).float()


def tolerance(case: Case) -> float:
    """Return what rounding may do to the map, relative to its largest value."""
    a, g = oracles.maps_and_gradients(case.network, case.x, case.layer, case.target)
    return 2e-6 * condition(a, g, g**2, g**3)


def condition(a: Tensor, m1: Tensor, m2: Tensor, m3: Tensor) -> float:
    """Return by how much rounding is magnified: where maps are negative, divisors may all but vanish.

    Maps and means of powers of the gradient are (K, h, w).
    """
    a, m1, m2, m3 = (of.double() for of in (a, m1, m2, m3))
    added = a.sum((1, 2))[:, None, None] * m3 / m2  # the divisor is 2 m2 (1 + added / 2)
    counts = (m2 > 0) & (m1 > 0) & (added > -2)
    weight = torch.where(counts, m1 / (2 + added), 0)
    magnified = torch.where(counts, weight * (1 + added.abs() / (2 + added)), 0)
    largest = oracles.weighted_sum(weight.sum((1, 2)), a).max()
    return float(oracles.weighted_sum(magnified.sum((1, 2)), a.abs()).max() / largest)


@pytest.mark.oracle("grad-cam++")
def test_equals_the_definition(subject, x):
    layer = module_layer(subject)
    found = subject.explain(GradCAMPlusPlus(layer=layer), x, [2, 7])
    for m, target in zip(found.maps, (2, 7), strict=True):
        case = Case(subject.plain, x, layer, target)
        assert_close(m.array, oracle(case), tolerance(case))


@pytest.mark.oracle("grad-cam++")
@pytest.mark.parametrize("name", HEADS)
def test_on_a_linear_head_the_weights_are_known(subjects, x, name):
    """g is the same everywhere, v_k / hw: w_k = ReLU(v_k) / (2 + v_k mean A_k)."""
    subject = subjects(name)
    found = subject.explain(GradCAMPlusPlus(), x, [281])
    a = oracles.layer_output(subject.plain, x, subject.facts.head.layer)[0]
    v = subject.facts.head.weight[281]
    divisor = 2 + v * a.mean((1, 2))
    w = torch.where(divisor > 0, v.relu() / divisor, 0)
    assert_close(found.maps[0].array, (w[:, None, None] * a).sum(0).relu())


@pytest.fixture
def linear(small):
    """Make a subject on inputs of 16 px: maps of 4 x 4, maybe rectified, and a linear layer over all positions."""

    def make(*, rectified):
        def network() -> nn.Module:
            torch.manual_seed(0)
            layers = [nn.Conv2d(3, 3, 4, 4), nn.ReLU() if rectified else nn.Identity(), nn.Flatten(), nn.Linear(48, 2)]
            return nn.Sequential(*layers).eval()

        with torch.random.fork_rng():
            return small(network, size=16)

    return make


@pytest.mark.oracle("grad-cam++")
@pytest.mark.parametrize("layer", [0, 1])
def test_powers_of_the_gradient_are_derivatives_of_exp(linear, layer):
    """With Y = exp(y), alpha = Y2 / (2 Y2 + sum(A) Y3): its derivatives by autograd, one activation at a time."""
    subject, x = linear(rectified=True), tiny_input(16)
    found = subject.explain(GradCAMPlusPlus(layer=str(layer)), x, [1])
    a = oracles.layer_output(subject.plain, x, str(layer)).double().requires_grad_()
    exp = subject.plain[layer + 1 :].double()(a)[0, 1].exp()
    (first,) = torch.autograd.grad(exp, a, create_graph=True)
    weights = torch.zeros(3, dtype=torch.double)
    divisors = []
    for at in ((0, k, i, j) for k in range(3) for i in range(4) for j in range(4)):
        (second,) = torch.autograd.grad(first[at], a, create_graph=True)
        (third,) = torch.autograd.grad(second[at], a, retain_graph=True)
        divisor = 2 * second[at] + a[0, at[1]].sum() * third[at]
        divisors += [float((divisor / second[at]).detach())] if first[at] > 0 else []
        if divisor > 0:
            weights[at[1]] += (second[at] / divisor * first[at].relu()).detach()
    expected = oracles.weighted_sum(weights / exp.detach(), a[0].detach()).relu()
    assert_close(found.maps[0].array, expected.float(), 1e-4)
    assert found.details["undefined_weights"] == [sum(divisor <= 0 for divisor in divisors)]
    smallest = min(divisor for divisor in divisors if divisor > 0)
    assert found.details["smallest_divisor"] == pytest.approx([smallest], rel=1e-4)


def test_a_weight_without_meaning_is_none_and_counted(linear):
    """Maps far below zero: 2 + S g < 0 wherever g > 0, so that no position has a weight."""
    subject, x = linear(rectified=False), tiny_input(16)
    subject.model.module[0].bias -= 1e4
    found = subject.explain(GradCAMPlusPlus(layer="0"), x, [0, 1])
    assert found.details["undefined_weights"] == (subject.plain[3].weight > 0).sum(1).tolist()
    assert found.details["smallest_divisor"] == [None, None]
    assert all(m.array.eq(0).all() for m in found.maps)


@pytest.mark.parametrize("layer", ["relu1", "relu2"])
def test_behind_a_relu_every_weight_has_a_meaning(small, layer):
    found = small(tiny.classifier).explain(GradCAMPlusPlus(layer=layer), tiny_input(), [0, 1])
    assert found.details["undefined_weights"] == [0, 0]
    assert min(found.details["smallest_divisor"]) >= 2


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_pytorch_grad_cams_epsilon_drowns_small_gradients(subjects, x, name):
    subject = subjects(name)
    layer = module_layer(subject)
    case = Case(subject.plain, x, layer, 281)
    theirs, expected = oracles.pytorch_grad_cam_raw("GradCAMPlusPlus", case), oracle(case)
    assert oracles.relative_error(theirs, expected) > 5e-4
    assert (
        oracles.relative_error(subject.explain(GradCAMPlusPlus(layer=layer), x, [281]).maps[0].array, expected) < 1e-4
    )


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
def test_torchcams_map_is_another_one_even_when_scaled(subjects, x, layer):
    """It divides a copy, so that its alpha is g^2, and sums g^3 A over the positions, not A."""
    subject = subjects("resnet18")
    case = Case(subject.plain, x, layer, 281)
    theirs, expected = (oracles.unit_range(m) for m in (oracles.torchcam_raw("GradCAMpp", case), oracle(case)))
    assert oracles.relative_error(theirs, expected) > 0.05
    found = subject.explain(GradCAMPlusPlus(layer=layer), x, [281]).maps[0].array
    assert oracles.relative_error(oracles.unit_range(found), expected) < 1e-4

from unittest import mock

import pytest
import torch
from torch import Tensor

from service.contract import Targets
from service.engine.scheduler.run import Run
from service.explainers.cam.grad_cam_plus_plus import GradCAMPlusPlus
from service.explainers.cam.smooth_grad_cam_plus_plus import SmoothGradCAMPlusPlus
from service.explainers.noise import gaussian
from tests import oracles, tiny
from tests.explainers.cam.test_cam import HEADS
from tests.explainers.cam.test_grad_cam_plus_plus import condition
from tests.explainers.conftest import assert_close, module_layer, tiny_input
from tests.oracles import Case


def noises(case: Case) -> list[Tensor]:
    """Return the noise of each copy, (1, 3, H, W)."""
    how = {"samples": 8, "noise": 0.15, "seed": 0, **case.params}
    deviation = how["noise"] * (case.x.max() - case.x.min())
    return [deviation * gaussian(case.x.shape[1:], how["seed"], i)[None] for i in range(how["samples"])]


def means(case: Case) -> list[Tensor]:
    """Return the means of g, g^2 and g^3 over the copies, (K, h, w) each, in double."""
    copies = torch.cat([case.x + noise for noise in noises(case)])
    g = oracles.all_maps_and_gradients(case.network, copies, case.layer, case.target)[1].double()
    return [sum(of_one**power for of_one in g) / len(g) for power in (1, 2, 3)]


def tolerance(case: Case) -> float:
    """Return what rounding may do to the map, relative to its largest value."""
    return 2e-6 * condition(oracles.layer_output(case.network, case.x, case.layer)[0], *means(case))


def oracle(case: Case) -> Tensor:
    """ReLU(sum_k w_k A_k), one map after the other, in double."""
    a = oracles.layer_output(case.network, case.x, case.layer)[0].double()
    m1, m2, m3 = means(case)
    weights = []
    for plane, first, second, third in zip(a, m1, m2, m3, strict=True):
        divisor = 2 * second + plane.sum() * third
        alpha = torch.where(divisor > 0, second / divisor, 0)
        weights.append((alpha * first.clamp_min(0)).sum())
    return oracles.weighted_sum(weights, a).clamp_min(0).float()


@pytest.mark.oracle("smooth-grad-cam++")
@pytest.mark.parametrize("name", ["resnet18", "googlenet", "mobilenet_v3_small", "efficientnet_lite0"])
@pytest.mark.parametrize("params", [{"samples": 3}, {"samples": 2, "noise": 0.4, "seed": 9}])
def test_equals_the_definition(subjects, x, name, params):
    subject = subjects(name)
    layer = module_layer(subject)
    found = subject.explain(SmoothGradCAMPlusPlus(layer=layer, **params), x, [281, 7])
    for m, target in zip(found.maps, (281, 7), strict=True):
        case = Case(subject.plain, x, layer, target, params)
        assert_close(m.array, oracle(case), tolerance(case))


@pytest.mark.oracle("smooth-grad-cam++")
@pytest.mark.parametrize("layer", ["conv1", "conv2", "relu2"])
def test_without_noise_it_is_grad_cam_plus_plus(small, layer):
    subject, x = small(tiny.vgg), tiny_input()
    plain = subject.explain(GradCAMPlusPlus(layer=layer), x, [1, 3])
    for samples in (1, 5):
        found = subject.explain(SmoothGradCAMPlusPlus(layer=layer, samples=samples, noise=0), x, [1, 3])
        for m, expected in zip(found.maps, plain.maps, strict=True):
            assert_close(m.array, expected.array)
        assert found.details["undefined_weights"] == plain.details["undefined_weights"]
        assert found.details["smallest_divisor"] == pytest.approx(plain.details["smallest_divisor"], rel=1e-4)


@pytest.mark.oracle("smooth-grad-cam++")
@pytest.mark.parametrize("name", sorted({*HEADS} - {"densenet121"}))
def test_on_a_linear_head_noise_changes_nothing(subjects, x, name):
    """The gradient there is the same on every copy."""
    subject = subjects(name)
    method = SmoothGradCAMPlusPlus(samples=2, noise=1)
    found, plain = (subject.explain(m, x, [281]).maps[0].array for m in (method, GradCAMPlusPlus()))
    assert_close(found, plain)


def test_copies_are_cut_into_batches_and_added_up_on_the_device(small):
    subject, x, run = small(tiny.vgg), tiny_input(), Run()
    method = SmoothGradCAMPlusPlus(samples=40)  # a batch has 16 rows
    found = method.explain(subject.probe(run), x, Targets(subject.facts, [1, 3]))
    assert (run.usage.forwards, run.usage.batches) == (41, 4)
    case = Case(subject.plain, x, "relu2", 3, {"samples": 40})
    assert_close(found.maps[1].array, oracle(case), 1e-4)  # batches of 16, and one of 40


def test_gradients_whose_third_power_is_below_float32_count(small):
    subject, x = small(tiny.classifier), tiny_input()
    for network in (subject.plain, subject.model.module):
        network.fc.weight *= 1e-16
    found = subject.explain(SmoothGradCAMPlusPlus(samples=2), x, [1]).maps[0].array
    assert_close(found, oracle(Case(subject.plain, x, "relu2", 1, {"samples": 2})))


def test_the_target_is_the_clean_pictures(subjects, x):
    subject = subjects("efficientnet_lite0")
    found = subject.explain(SmoothGradCAMPlusPlus(samples=1, noise=1), x)
    assert found.maps[0].target.index == int(found.outputs.argmax()) == int(subject.plain(x).argmax())


def test_torchcam_takes_the_last_copys_gradient_for_all(subjects, x):
    """Given the same noise; and its divisor sums g^3 A over the positions, not A."""
    subject = subjects("resnet18")
    case = Case(subject.plain, x, "layer3", 281, {"samples": 3})
    draws = iter(noises(case))
    with mock.patch.object(torch.distributions.Normal, "sample", side_effect=draws):
        theirs = oracles.torchcam_raw("SmoothGradCAMpp", case, num_samples=3)
    assert next(draws, None) is None
    found = subject.explain(SmoothGradCAMPlusPlus(layer="layer3", samples=3), x, [281]).maps[0].array
    assert_close(found, oracle(case), tolerance(case))
    scaled = oracles.unit_range(theirs), oracles.unit_range(found)
    assert oracles.relative_error(*scaled) > 0.05

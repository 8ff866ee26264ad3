import numpy as np
import pytest
import torch
from torch import Tensor

from service.explainers.gradient.gradient_shap import GradientSHAP, positions
from service.explainers.gradient.integrated_gradients import IntegratedGradients
from service.explainers.noise import gaussian
from tests import tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.explainers.gradient.test_integrated_gradients import linear, start
from tests.explainers.gradient.test_saliency import gradients
from tests.oracles import Case

TOLERANCE = 1e-3  # rounding decides at some points which ReLU is open
ALL = "mean+black+white+grey+blur"


def oracle(case: Case) -> Tensor:
    """The mean over baselines of the mean over their samples of (x - b) times the gradient at b + u (x - b)."""
    how = {"baseline": ALL, "samples": 50, "noise": 0.0, "seed": 0, **case.params}
    names = how["baseline"].split("+")
    u = positions(how["samples"], len(names), how["seed"])
    deviation = how["noise"] * (case.x.max() - case.x.min())
    starts, ways = [], []
    for k in range(how["samples"]):
        starts.append(start(case, names[k % len(names)]))
        ways.append(case.x + deviation * gaussian(case.x.shape[1:], how["seed"], k) - starts[-1])
    points = [b + float(share) * way for b, share, way in zip(starts, u, ways, strict=True)]
    g = gradients(case, torch.cat(points))
    own = [[(ways[k][0] * g[k]).double() for k in range(i, how["samples"], len(names))] for i in range(len(names))]
    return (sum(sum(one) / len(one) for one in own) / len(names)).sum(0).float()


@pytest.mark.oracle("gradient-shap")
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, tiny.functional, tiny.tokens])
@pytest.mark.parametrize(
    "params", [{"samples": 13}, {"samples": 5, "seed": 3, "noise": 0.2}, {"samples": 8, "baseline": "black+blur"}]
)
def test_equals_the_definition(small, network, params):
    subject, x = small(network), tiny_input()
    found = subject.explain(GradientSHAP(**params), x, [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        assert_close(m.array, oracle(Case(subject.plain, x, target=target, params=params)), 1e-4)


@pytest.mark.oracle("gradient-shap")
@pytest.mark.parametrize("samples", [5, 12, 50])
def test_a_linear_models_sum_is_the_change(small, samples):
    subject, x = small(linear), tiny_input()
    found = subject.explain(GradientSHAP(samples=samples), x, [0, 1])
    starts = torch.cat([start(Case(subject.plain, x), name) for name in ALL.split("+")])
    change = subject.plain(x)[0] - subject.plain(starts).mean(0)
    assert_close(torch.stack([m.array.sum() for m in found.maps]), change, 1e-5)
    assert found.details["change"] == pytest.approx(change.tolist(), abs=1e-5)
    assert max(map(abs, found.details["completeness_residual"])) < 1e-5 * float(change.abs().max())


@pytest.mark.oracle("gradient-shap")
def test_many_samples_are_integrated_gradients_over_the_baselines(small):
    subject, x = small(tiny.classifier), tiny_input()
    exact = subject.explain(IntegratedGradients(baseline=ALL, steps=100), x, [1]).maps[0].array
    errors = [
        float((subject.explain(GradientSHAP(samples=n, seed=1), x, [1]).maps[0].array - exact).norm() / exact.norm())
        for n in (20, 500)
    ]
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 5  # a random sample that is not stratified gains the square root of 25


@pytest.mark.parametrize(("samples", "baselines"), [(50, 5), (12, 5), (7, 1), (512, 3)])
def test_samples_leave_no_gap(samples, baselines):
    """Neither those of a baseline, each of which has a stratum of its own, nor all together."""
    u = positions(samples, baselines, 4)
    for i in range(baselines):
        own = u[i::baselines]
        assert np.array_equal(np.floor(own * len(own)), np.arange(len(own)))
    if samples % baselines == 0:
        assert np.array_equal(np.sort(np.floor(u * samples)), np.arange(samples))
    assert np.array_equal(positions(samples, baselines, 4), u)
    assert not np.array_equal(positions(samples, baselines, 5), u)


def test_noise_changes_what_is_explained(small):
    subject, x = small(tiny.classifier), tiny_input()
    plain, noisy = (subject.explain(GradientSHAP(samples=5, noise=n), x, [1]).maps[0].array for n in (0, 0.3))
    assert float((plain - noisy).norm() / plain.norm()) > 0.1

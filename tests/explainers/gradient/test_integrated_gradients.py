import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter
from scipy.special import roots_legendre
from torch import Tensor, nn

from service.explainers.gradient.integrated_gradients import IntegratedGradients
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.explainers.gradient.test_saliency import gradients
from tests.oracles import Case, Peer

# On a way through a deep network rounding decides at some of its points which ReLU is open.
TOLERANCE = 1e-3
NETWORKS = [tiny.classifier, tiny.vgg, tiny.functional, tiny.tokens]


def start(case: Case, name: str) -> Tensor:
    """Return a baseline, (1, 3, H, W)."""
    if name == "blur":
        deviation = 20 / 224 * min(case.x.shape[2:])
        found = gaussian_filter(case.x.double().numpy(), (0, 0, deviation, deviation), mode="nearest", truncate=4)
        return torch.from_numpy(found).to(case.x)
    if name == "mean":
        return torch.zeros_like(case.x)
    return case.colour({"black": 0.0, "white": 1.0, "grey": 0.5}[name]).expand_as(case.x)


def attributions(case: Case) -> Tensor:
    """Return (x - x') times the mean gradient on the way, (3, H, W), the mean over the baselines."""
    how = {"baseline": "mean", "steps": 50, "rule": "gauss-legendre", **case.params}
    if how["rule"] == "gauss-legendre":
        u, w = roots_legendre(how["steps"])
        u, w = (1 + u) / 2, w / 2
    else:
        u, w = (np.arange(how["steps"]) + 0.5) / how["steps"], np.full(how["steps"], 1 / how["steps"])
    starts = [start(case, name) for name in how["baseline"].split("+")]
    points = torch.cat([x0 + float(share) * (case.x - x0) for x0 in starts for share in u])
    g = gradients(case, points).double().view(len(starts), len(u), *case.x.shape[1:])
    ways = [(case.x[0] - x0[0]).double() for x0 in starts]
    return sum(
        way * sum(weight * one for weight, one in zip(w, of_way, strict=True))
        for way, of_way in zip(ways, g, strict=True)
    ) / len(starts)


def oracle(case: Case) -> Tensor:
    """(x - x') times the weighted sum of gradients at points between, one after the other, over the colours."""
    return attributions(case).sum(0).float()


def captum(case: Case) -> Tensor:
    """Captum's `IntegratedGradients`, the sum over the colours."""
    how = {"baseline": "mean", "steps": 50, "rule": "gauss-legendre", **case.params}
    with oracles.quiet(), torch.enable_grad():
        from captum.attr import IntegratedGradients as Theirs

        network = oracles.scored(oracles.plain_copy(case.network), how.get("score", "logit"))
        method = {"gauss-legendre": "gausslegendre", "midpoint": "riemann_middle"}[how["rule"]]
        found = Theirs(network).attribute(
            case.x.clone(), start(case, how["baseline"]), target=case.target, n_steps=how["steps"], method=method
        )
        return found[0].sum(0).detach().float()


PEERS = {"captum": Peer(captum)}


@pytest.mark.oracle("integrated-gradients")
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("baseline", ["mean", "black", "white", "grey", "blur"])
@pytest.mark.parametrize("rule", ["gauss-legendre", "midpoint"])
def test_equals_captum_and_the_definition(small, network, baseline, rule):
    subject, x = small(network), tiny_input()
    params = {"baseline": baseline, "steps": 12, "rule": rule}
    found = subject.explain(IntegratedGradients(**params), x, [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        case = Case(subject.plain, x, target=target, params=params)
        assert_close(m.array, oracle(case), 1e-5)
        assert_close(m.array, captum(case), 1e-5)


@pytest.mark.oracle("integrated-gradients")
def test_equals_the_definition_on_a_photograph(subjects, x):
    subject = subjects("efficientnet_lite0")
    params = {"baseline": "black+blur", "steps": 3, "score": "probability"}
    found = subject.explain(IntegratedGradients(**params), x, [281]).maps[0].array
    assert_close(found, oracle(Case(subject.plain, x, target=281, params=params)), TOLERANCE)


def linear() -> nn.Module:
    """A linear network of two outputs."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)).eval()


class Cubes(nn.Module):
    """sum_i a_i x_i^3 + b: attributions are a_i (x_i^3 - x'_i^3), and a gradient is of the second degree."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.a = nn.Parameter(torch.randn(2, 3 * 32 * 32, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 2)."""
        return x.flatten(1) ** 3 @ self.a.T


@pytest.mark.oracle("integrated-gradients")
@pytest.mark.parametrize("baseline", ["mean", "black", "blur", "white+black"])
def test_a_linear_models_attributions_are_its_weights_times_the_way(small, baseline):
    subject, x = small(linear), tiny_input()
    weight = subject.plain[1].weight.view(2, 3, 32, 32)
    found = subject.explain(IntegratedGradients(baseline=baseline, steps=7), x, [0, 1])
    x0 = sum(start(Case(subject.plain, x), name) for name in baseline.split("+")) / len(baseline.split("+"))
    for i, m in enumerate(found.maps):
        assert_close(m.array, (weight[i] * (x - x0)[0]).sum(0), 1e-6)
    assert max(map(abs, found.details["completeness_residual"])) < 1e-5


@pytest.mark.oracle("integrated-gradients")
def test_two_points_are_exact_for_cubes_and_both_ends_counted_alike_are_not(small):
    """Peers that take the mean of equally weighted points, both ends included, are wrong in the first order."""
    subject, x = small(Cubes), tiny_input()
    found = subject.explain(IntegratedGradients(steps=2, colours="keep"), x, [1]).maps[0].array
    expected = subject.plain.a[1].view(3, 32, 32) * x[0] ** 3
    assert_close(found, expected, 1e-6)
    ends = torch.linspace(0, 1, 25).view(-1, 1, 1, 1)
    theirs = x[0] * gradients(Case(subject.plain, x, target=1), ends * x).mean(0)
    assert oracles.relative_error(theirs, expected) > 0.02


def test_what_the_sum_misses_is_said(small):
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(IntegratedGradients(steps=2, baseline="white"), x, [1, 3])
    ends = subject.plain(torch.cat([x, start(Case(subject.plain, x), "white")]))
    for i, target in enumerate((1, 3)):
        change = float(ends[0, target] - ends[1, target])
        assert found.details["change"][i] == pytest.approx(change, abs=1e-5)
        missing = float(found.maps[i].array.sum()) - change
        assert found.details["completeness_residual"][i] == pytest.approx(missing, abs=1e-4)
        assert abs(missing) > 1e-3  # two points are few
    closer = subject.explain(IntegratedGradients(steps=200, baseline="white"), x, [1, 3]).details
    assert max(map(abs, closer["completeness_residual"])) < 0.1 * max(map(abs, found.details["completeness_residual"]))


def test_a_picture_that_is_its_baseline_has_nothing_to_attribute(small):
    found = small(tiny.classifier).explain(IntegratedGradients(steps=2), torch.zeros(1, 3, 32, 32), [1])
    assert found.maps[0].array.eq(0).all()
    assert found.details == {"score": "logit", "change": [0.0], "completeness_residual": [0.0]}


@pytest.mark.parametrize("baseline", ["", "red", "mean+", "black+red", "#12345", "mean+mean+mean+mean+mean+mean"])
def test_a_baseline_that_is_none_is_refused(baseline):
    with pytest.raises(ValidationError, match="should match pattern"):
        IntegratedGradients(baseline=baseline)

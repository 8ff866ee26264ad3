import numpy as np
import pytest
import torch
from torch import Tensor

from service.contract import Targets
from service.engine.scheduler.run import Run
from service.explainers.gradient.guided_ig import GuidedIG, Walk
from service.explainers.gradient.integrated_gradients import IntegratedGradients
from tests import tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.explainers.gradient.test_integrated_gradients import linear, start
from tests.explainers.gradient.test_saliency import gradients
from tests.oracles import Case

TOLERANCE = 1e-3  # rounding decides which ReLU is open, and with it which values go first


def oracle(case: Case) -> Tensor:
    """Algorithm 1 of the paper, in which the values' distances to the picture are counted anew after each move."""
    how = {"baseline": "mean", "steps": 100, "fraction": 0.25, "band": 0.02, **case.params}
    end = case.x.double().numpy().ravel()
    begin = start(case, how["baseline"]).double().numpy().ravel()
    x, way, total = begin.copy(), end - begin, np.zeros_like(end)
    for step in range(1, how["steps"] + 1):
        point = torch.from_numpy(x).float().view(case.x.shape)
        g = gradients(case, point).double().numpy().ravel()
        alpha = step / how["steps"]
        low, high = begin + way * max(alpha - how["band"], 0), begin + way * min(alpha + how["band"], 1)
        goal = np.abs(way).sum() * (1 - alpha)
        size = np.abs(g)
        while True:
            before = x.copy()
            late = np.abs(x - begin) < np.abs(low - begin)
            x[late] = low[late]
            distance = np.abs(x - end).sum()
            if np.isclose(distance, goal, rtol=1e-9, atol=1e-9):
                total += (x - before) * g
                break
            size[np.isclose(x, high, rtol=1e-12, atol=0) | (way == 0)] = np.inf
            limit = np.sort(size)[int(how["fraction"] * (len(size) - 1))]
            moving = (size <= limit) & np.isfinite(size)
            reach = np.abs(high - x)[moving].sum()
            gamma = min(1.0, (distance - goal) / reach)
            x[moving] += gamma * (high - x)[moving]
            total += (x - before) * g
            if gamma < 1:
                break
    return torch.from_numpy(total).view(case.x.shape[1:]).sum(0).float()


@pytest.mark.oracle("guided-ig")
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, tiny.tokens])
@pytest.mark.parametrize(
    "params",
    [
        {"steps": 9},
        {"steps": 6, "fraction": 0.03, "band": 0.2},
        {"steps": 4, "fraction": 1.0, "band": 1.0, "baseline": "black"},
        {"steps": 5, "band": 0.0, "baseline": "blur"},
    ],
)
def test_equals_the_algorithm(small, network, params):
    subject, x = small(network), tiny_input()
    found = subject.explain(GuidedIG(**params), x, [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        assert_close(m.array, oracle(Case(subject.plain, x, target=target, params=params)), 1e-4)


@pytest.mark.oracle("guided-ig")
@pytest.mark.parametrize("fraction", [0.01, 0.25, 1.0])
def test_on_a_linear_model_every_way_is_the_straight_one(small, fraction):
    subject, x = small(linear), tiny_input()
    found = subject.explain(GuidedIG(steps=7, fraction=fraction, band=0.3), x, [0, 1])
    straight = subject.explain(IntegratedGradients(steps=7), x, [0, 1])
    for one, other in zip(found.maps, straight.maps, strict=True):
        assert_close(one.array, other.array, 1e-6)
    assert max(map(abs, found.details["completeness_residual"])) < 1e-5


def test_without_a_band_it_is_the_straight_way(small):
    """Gradients where each of equal steps begins."""
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(GuidedIG(steps=10, band=0), x, [1]).maps[0].array
    points = torch.cat([x * i / 10 for i in range(10)])
    assert_close(found, (x[0] * gradients(Case(subject.plain, x, target=1), points).mean(0)).sum(0), 1e-4)


@pytest.mark.parametrize(("fraction", "band"), [(0.25, 0.02), (0.01, 0.5), (1.0, 1.0), (0.5, 0.0)])
def test_a_walk_keeps_to_its_band_and_schedule_and_arrives(fraction, band):
    random = torch.Generator().manual_seed(0)
    begin, end = torch.randn(2, 500, generator=random)
    end[:50] = begin[:50]  # some have no way to go
    walk, moved = Walk(begin, end, fraction, band), torch.zeros(500, dtype=torch.float64)
    way = end.double() - begin.double()
    for step in range(1, 21):
        gradient = torch.randn(500, generator=random).double()
        gradient[:200:2] = 0  # many are alike
        moved += walk.step(gradient, step / 20)
        assert float((walk.share * way.abs()).sum()) == pytest.approx(float(way.abs().sum()) * step / 20, rel=1e-9)
        behind = walk.share[way != 0]
        assert float(behind.min()) >= step / 20 - band - 1e-12
        assert float(behind.max()) <= step / 20 + band + 1e-12
    assert torch.allclose(walk.point, end.double(), atol=1e-12)
    assert torch.allclose(moved, way, atol=1e-12)


def test_what_the_score_feels_least_goes_first():
    walk = Walk(torch.zeros(4), torch.tensor([1.0, 1.0, -1.0, 1.0]), fraction=0.01, band=1.0)
    walk.step(torch.tensor([3.0, -1.0, 2.0, 4.0]).double(), 0.25)
    assert walk.point.tolist() == [0, 1, 0, 0]
    walk.step(torch.tensor([3.0, 0.0, 2.0, 4.0]).double(), 0.625)
    assert walk.point.tolist() == [0.5, 1, -1, 0]


def test_targets_walk_side_by_side(small):
    """Each on its own way, and all of them in one batch a step."""
    subject, x, run = small(tiny.classifier), tiny_input(), Run()
    method = GuidedIG(steps=5)
    found = method.explain(subject.probe(run), x, Targets(subject.facts, [1, 3, 0]))
    assert (run.usage.batches, run.usage.forwards, run.usage.backwards) == (6, 17, 15)
    for m, target in zip(found.maps, (1, 3, 0), strict=True):
        assert_close(m.array, subject.explain(method, x, [target]).maps[0].array, 1e-5)
    # A batch may hold fewer rows than there are targets.
    for m, one in zip(found.maps, subject.explain_plainly(method, x, [1, 3, 0]).maps, strict=True):
        assert_close(one.array, m.array, 1e-5)


def test_a_picture_that_is_its_baseline_has_nothing_to_attribute(small):
    found = small(tiny.classifier).explain(GuidedIG(steps=4), torch.zeros(1, 3, 32, 32), [1])
    assert found.maps[0].array.eq(0).all()

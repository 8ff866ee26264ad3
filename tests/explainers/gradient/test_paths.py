"""Sums of gradients along paths."""

import numpy as np
import pytest
import torch
from scipy.special import roots_legendre

from service.contract import Rows, Targets
from service.engine.scheduler.run import Run
from service.explainers.gradient.paths import Attributions, ends, integrated, nodes, path_sum
from tests import tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.explainers.gradient.test_saliency import gradients
from tests.oracles import Case


@pytest.mark.parametrize("steps", [2, 3, 50, 512])
def test_nodes_are_those_of_gauss_and_legendre(steps):
    u, w = np.array(nodes("gauss-legendre", steps)).T
    expected, weights = roots_legendre(steps)
    assert np.allclose(u, (1 + expected) / 2, atol=1e-14)
    assert np.allclose(w, weights / 2, atol=1e-14)
    assert sum(w) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("rule", ["gauss-legendre", "midpoint"])
def test_a_quadrature_is_exact_up_to_its_degree(rule):
    steps, degree = 4, {"gauss-legendre": 7, "midpoint": 1}[rule]
    u, w = np.array(nodes(rule, steps)).T
    for power in range(degree + 1):
        assert (w * u**power).sum() == pytest.approx(1 / (power + 1), abs=1e-14)
    assert abs((w * u ** (degree + 1)).sum() - 1 / (degree + 2)) > 1e-6


def test_a_path_is_cut_into_batches_and_each_gradient_meets_its_own_change(small):
    subject, x = small(tiny.classifier), tiny_input()  # its batches have 16 rows
    points = x * torch.linspace(0, 1, 37).view(-1, 1, 1, 1)
    moves = torch.randn(37, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    run, targets = Run(), Targets(subject.facts, [1, 3])
    found = path_sum(subject.probe(run), Rows.of(points), lambda i, j: moves[i:j], targets, "logit")
    assert (run.usage.batches, run.usage.forwards, run.usage.backwards) == (3, 37, 74)
    for i, target in enumerate((1, 3)):
        expected = sum(
            (gradients(Case(subject.plain, point[None], target=target), point[None])[0] * move).double()
            for point, move in zip(points, moves, strict=True)
        )
        assert_close(found[i], expected, 1e-5)


def test_the_ends_decide_targets_and_change(small):
    subject, x = small(tiny.classifier), tiny_input()
    starts = torch.cat([torch.zeros_like(x), x.flip(3)])
    change, outputs, targets = ends(subject.probe(), x, starts, Targets(subject.facts), "probability")
    p = subject.plain(torch.cat([x, starts])).softmax(1)
    best = int(p[0].argmax())
    assert [t.index for t in targets.chosen(torch.zeros(5))] == [best]
    assert_close(change[:, 0], (p[0] - p[1:])[:, best].double(), 1e-5)
    assert_close(outputs, subject.plain(x)[0])


def test_completeness_is_what_the_sum_misses():
    values = torch.arange(12, dtype=torch.float64).view(2, 3, 1, 2)
    found = Attributions(values, torch.tensor([14.0, 50.0]), None, torch.empty(0)).completeness()
    assert found == {"change": [14.0, 50.0], "completeness_residual": [1.0, 1.0]}


def test_baselines_count_alike_and_are_asked_in_one_go(small):
    subject, x = small(tiny.classifier), tiny_input()
    run, targets = Run(), Targets(subject.facts, [1])
    both = integrated(subject.probe(run), x, targets, "logit", "black+blur", "midpoint", 8)
    assert (run.usage.batches, run.usage.forwards) == (2, 19)
    each = [integrated(subject.probe(), x, targets, "logit", name, "midpoint", 8).values for name in ("black", "blur")]
    assert_close(both.values, sum(each) / 2, 1e-6)

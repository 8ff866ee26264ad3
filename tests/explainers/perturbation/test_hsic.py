import pytest
import torch
from torch import Tensor

from service.contract import Targets
from service.explainers.perturbation.hsic import HSIC, dependence, median_gap, switches
from tests import oracles, tiny
from tests.explainers.conftest import Watched, assert_close, tiny_input
from tests.oracles import Case

DEFAULTS = {"score": "probability", "cells": 8, "samples": 512, "space": "pixels", "seed": 0}
TOLERANCE = 1e-3  # the kernel's width is the median of small differences of scores, which round


def matrices(x: Tensor, y: Tensor) -> Tensor:
    """Return tr(K H L H) / n^2 of each switch (n, d), its matrices written out: (d,)."""
    x, y, n = x.double(), y.double(), len(y)
    gaps = [float(abs(y[i] - y[j])) for i in range(n) for j in range(i)]
    gaps = sorted(gap for gap in gaps if gap > 0)
    width = gaps[(len(gaps) - 1) // 2]
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    kernel = torch.exp(-((y[:, None] - y) ** 2) / (2 * width**2))
    found = []
    for column in x.T:
        k = 0.5 - (column[:, None] - column) ** 2
        found.append(torch.trace(k @ centring @ kernel @ centring) / n**2)
    return torch.stack(found)


def oracle(case: Case) -> Tensor:
    """tr(K H L H) / n^2 of each cell, from scores of one picture after the other."""
    how = {**DEFAULTS, **case.params}
    x, side = switches(how["samples"], how["cells"] ** 2, how["seed"]), how["cells"]
    black = case.colour(0.0) if how["space"] == "pixels" else torch.zeros(1, 3, 1, 1)
    size = case.x.shape[2:]
    masks = [torch.nn.functional.interpolate(on.view(1, 1, side, side), size, mode="nearest-exact") for on in x]
    pictures = (torch.where(mask == 1, case.x, black) for mask in masks)
    return matrices(x, oracles.scores_of(case.network, pictures, case.target, how["score"])).view(side, side).float()


@pytest.mark.oracle("hsic")
@pytest.mark.parametrize("params", [{}, {"seed": 7, "space": "normalised"}, {"score": "logit", "cells": 3}])
def test_equals_explicit_matrices(small, params):
    subject, x = small(tiny.vgg), tiny_input()
    params = {"samples": 41, "cells": 5, **params}
    found = subject.explain(HSIC(**params), x, [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        assert_close(m.array, oracle(Case(subject.plain, x, target=target, params=params)), 2e-4)


@pytest.mark.oracle("hsic")
def test_equals_explicit_matrices_on_a_real_network(subjects):
    subject, x = subjects("resnet18"), oracles.photograph("chelsea", 64)
    params = {"samples": 32, "cells": 3}
    found = subject.explain(HSIC(**params), x, [281])
    assert_close(found.maps[0].array, oracle(Case(subject.plain, x, target=281, params=params)), TOLERANCE)


@pytest.mark.oracle("hsic")
@pytest.mark.parametrize("n", [33, 600])  # within one slice of the kernel, and over two
def test_the_quadratic_form_is_the_trace(n, monkeypatch):
    monkeypatch.setattr("service.explainers.perturbation.hsic.SLICE", 256)
    x = switches(n, 4, seed=1)
    y = x[:, 2] + 0.3 * torch.randn(n, generator=torch.Generator().manual_seed(0))
    y[3] = y[8]
    found = dependence(x, y)
    if n < 100:
        assert_close(found, matrices(x, y), 1e-9)
    else:
        assert_close(found, dependence(x.flip(0), y.flip(0)), 1e-9)
    assert int(found.argmax()) == 2


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 0.0, 5.0], [1.0, 2.0, 4.0, 8.0, 16.0], [3.0, 3.0, 3.0, 4.0, 9.0]])
def test_the_median_gap_is_that_of_all_pairs_apart(values):
    y = torch.tensor(values)
    gaps = sorted(abs(a - b) for i, a in enumerate(values) for b in values[:i] if a != b)
    assert median_gap(y) == pytest.approx(gaps[(len(gaps) - 1) // 2], rel=1e-12)


def test_a_dependence_without_a_shift_of_the_mean_is_seen():
    """A cell that only spreads the score: its mean is the same, on or off."""
    x = switches(2000, 2, seed=0)
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    y = torch.where(x[:, 1] == 1, 3 * noise, noise / 3)
    found = dependence(x, y)
    assert found[1] > 20 * found[0]


def test_every_cell_shows_in_half_of_the_samples():
    x = switches(64, 30, seed=2)
    assert x.mean(0).eq(0.5).all()
    assert switches(33, 30, seed=2).sum(0).eq(16).all()
    assert not torch.equal(x, switches(64, 30, seed=3))
    correlation = torch.corrcoef(switches(4000, 6, seed=3).T) - torch.eye(6)
    assert float(correlation.abs().max()) < 0.06


def test_cells_are_ranked_by_their_weight_and_a_still_score_gives_nothing(small):
    subject, x = small(tiny.Shares), torch.ones(1, 3, 32, 32)
    found = subject.explain(HSIC(cells=2, space="normalised", score="logit"), x, [0, 2])
    assert found.maps[0].array.flatten().argsort()[[0, 3]].tolist() == [0, 3]
    assert found.maps[1].array.eq(0).all()
    assert found.details["width"][1] is None


def test_callers_who_watch_see_what_the_first_samples_say(small):
    subject, x = small(tiny.vgg), tiny_input()
    probe, method = Watched(subject), HSIC(cells=2, samples=32, score="logit")
    found = method.explain(probe, x, Targets(subject.facts, [1]))
    (shown,) = probe.shown
    assert len(shown) == 33 == method.passes(subject.facts, 1)
    assert torch.equal(shown[-1], found.maps[0].array)
    assert shown[1].eq(0).all()
    assert shown[20].gt(0).any()


def test_only_what_changes_the_rows_changes_their_key(small):
    subject = small(tiny.classifier)

    def key(x=None, **params):
        probe = Watched(subject)
        x = tiny_input() if x is None else x
        HSIC(**{"cells": 2, "samples": 32, **params}).explain(probe, x, Targets(subject.facts, [1]))
        return probe.asked[0].key

    assert key() == key(score="logit")
    others = [{"samples": 33}, {"cells": 3}, {"seed": 1}, {"space": "normalised"}]
    assert len({key(), key(tiny_input(seed=8)), *(key(**other) for other in others)}) == 6

import pytest
import torch
from torch import Tensor

from service.contract import Targets
from service.explainers.perturbation.sobol import Sobol, latin_hypercube
from tests import oracles, tiny
from tests.explainers.conftest import Watched, assert_close, assert_within, tiny_input
from tests.oracles import Case

DEFAULTS = {"score": "probability", "cells": 8, "designs": 32, "space": "pixels", "seed": 0}
TOLERANCE = 1e-3  # squares of small differences of scores, which round


def oracle(case: Case) -> Tensor:
    """Jansen's estimator, one cell and one design after the other: mean (f(A) - f(C_i))^2 / (2 var f)."""
    how = {**DEFAULTS, **case.params}
    d, size = how["cells"] ** 2, case.x.shape[2:]
    a, b = latin_hypercube(how["designs"], 2 * d, how["seed"]).chunk(2, 1)
    black = case.colour(0.0) if how["space"] == "pixels" else torch.zeros(1, 3, 1, 1)

    def dimmed(cells: Tensor) -> Tensor:
        mask = torch.nn.functional.interpolate(cells.view(1, 1, how["cells"], how["cells"]), size, mode="nearest-exact")
        return black + (case.x - black) * mask

    def designs():
        for n in range(how["designs"]):
            yield dimmed(a[n])
            for i in range(d):
                mixed = a[n].clone()
                mixed[i] = b[n, i]
                yield dimmed(mixed)

    f = oracles.scores_of(case.network, designs(), case.target, how["score"]).double().view(how["designs"], d + 1)
    index = torch.stack([((f[:, 0] - f[:, 1 + i]) ** 2).mean() / (2 * f.flatten().var()) for i in range(d)])
    return index.view(how["cells"], how["cells"]).float()


@pytest.mark.oracle("sobol")
@pytest.mark.parametrize("params", [{}, {"seed": 7, "space": "normalised"}, {"score": "logit", "cells": 3}])
def test_equals_a_loop(small, params):
    subject, x = small(tiny.vgg), tiny_input()
    params = {"designs": 6, "cells": 5, **params}
    found = subject.explain(Sobol(**params), x, [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        assert_close(m.array, oracle(Case(subject.plain, x, target=target, params=params)), 2e-4)
    assert found.details["designs"] == 6


@pytest.mark.oracle("sobol")
def test_equals_a_loop_on_a_real_network(subjects):
    subject, x = subjects("resnet18"), oracles.photograph("chelsea", 64)
    params = {"designs": 4, "cells": 3}
    found = subject.explain(Sobol(**params), x, [281])
    assert_close(found.maps[0].array, oracle(Case(subject.plain, x, target=281, params=params)), TOLERANCE)


@pytest.mark.oracle("sobol")
def test_closed_forms(small):
    """Of a sum, each cell has its share of the squares; of a product of two, each takes part in both ways."""
    subject, x = small(tiny.Shares), torch.ones(1, 3, 32, 32)
    given = {"cells": 2, "designs": 128, "space": "normalised", "score": "logit"}
    seeds = [subject.explain(Sobol(seed=seed, **given), x, [0, 1]) for seed in range(16)]
    total, product = (torch.stack([found.maps[i].array for found in seeds]) for i in (0, 1))
    assert_within(total.mean(0), torch.tensor([[1.0, 4.0], [9.0, 16.0]]) / 30, 0.03)
    # f = u v, both uniform: var f = 1/9 - 1/16 = 7/144, and the mean over v of var_u(u v) = 1/36, which is 4/7 of it.
    assert_within(product.mean(0), torch.tensor([[4.0, 0.0], [0.0, 4.0]]) / 7, 0.05)
    assert product[:, 0, 1].eq(0).all()
    assert product[:, 1, 0].eq(0).all()
    variance = torch.tensor([found.details["variance"] for found in seeds])
    assert_close(variance.mean(0), torch.tensor([30 / 12, 7 / 144]), 0.03)


def test_a_score_that_does_not_move_depends_on_nothing(small):
    subject = small(tiny.Shares)
    found = subject.explain(Sobol(cells=2, designs=4, score="logit"), torch.ones(1, 3, 32, 32), [2])
    assert found.maps[0].array.eq(0).all()
    assert found.details["variance"] == [0]
    black = small(tiny.classifier)
    hidden = black.facts.colour((0, 0, 0)).expand(1, 3, 32, 32)  # every row is the same picture
    found = black.explain(Sobol(cells=2, designs=4), hidden, [2])
    assert found.maps[0].array.eq(0).all()


def test_each_part_of_an_axis_holds_one_point():
    points = latin_hypercube(16, 40, seed=3)
    assert (points * 16).long().sort(0).values.eq(torch.arange(16)[:, None]).all()
    correlation = torch.corrcoef(latin_hypercube(4000, 6, seed=3).T) - torch.eye(6)
    assert float(correlation.abs().max()) < 0.06
    assert not torch.equal(points, latin_hypercube(16, 40, seed=4))


def test_callers_who_watch_see_whole_designs(small):
    subject, x = small(tiny.vgg), tiny_input()
    probe, method = Watched(subject), Sobol(cells=2, designs=4, score="logit")
    found = method.explain(probe, x, Targets(subject.facts, [1]))
    (shown,) = probe.shown
    assert len(shown) == 1 + 4 * 5 == method.passes(subject.facts, 1)
    assert torch.equal(shown[-1], found.maps[0].array)
    assert all(m.eq(0).all() for m in shown[:5])
    assert torch.equal(shown[6], shown[9])
    assert not torch.equal(shown[9], shown[10])


def test_only_what_changes_the_rows_changes_their_key(small):
    subject = small(tiny.classifier)

    def key(x=None, **params):
        probe = Watched(subject)
        x = tiny_input() if x is None else x
        Sobol(**{"cells": 2, "designs": 4, **params}).explain(probe, x, Targets(subject.facts, [1]))
        return probe.asked[0].key

    assert key() == key(score="logit")
    others = [{"designs": 5}, {"cells": 3}, {"seed": 1}, {"space": "normalised"}]
    assert len({key(), key(tiny_input(seed=8)), *(key(**other) for other in others)}) == 6

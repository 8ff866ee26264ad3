import numpy as np
import pytest
import torch
from torch import Tensor

from service.contract import Targets
from service.explainers.perturbation.lime import LIME, nearness, switches
from tests import oracles, tiny
from tests.explainers.conftest import Watched, assert_close, tiny_input
from tests.explainers.perturbation.test_segment_ablation import filling_of, labels_of
from tests.oracles import Case

DEFAULTS = {"score": "probability", "samples": 1000, "width": 0.25, "ridge": 1.0, "seed": 0}
TOLERANCE = 1e-4  # coefficients are small differences of scores


def fitted(case: Case) -> tuple[Tensor, float, float]:
    """scikit-learn's ridge regression of the same samples: the map, the intercept and R^2."""
    from sklearn.linear_model import Ridge
    from sklearn.metrics import pairwise_distances

    how, labels = {**DEFAULTS, **case.params}, labels_of(case)
    on = switches(how["samples"], int(labels.max()) + 1, how["seed"])
    pictures = (torch.where(row[labels], case.x, filling_of(case)) for row in on)
    f = oracles.scores_of(case.network, pictures, case.target, how["score"]).double().numpy()
    x = on.double().numpy()
    distances = pairwise_distances(x, x[:1], metric="cosine")[:, 0]
    weights = np.sqrt(np.exp(-(distances**2) / how["width"] ** 2))
    model = Ridge(alpha=how["ridge"]).fit(x, f, sample_weight=weights)
    coefficients = torch.from_numpy(model.coef_)
    return coefficients[labels].float(), float(model.intercept_), float(model.score(x, f, sample_weight=weights))


def oracle(case: Case) -> Tensor:
    """The coefficients of scikit-learn's ridge regression, laid over the segments' pixels."""
    return fitted(case)[0]


@pytest.mark.oracle("lime")
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_equals_scikit_learn_on_real_networks(subjects, name):
    subject, x = subjects(name), oracles.photograph("chelsea", 64)
    params = {"samples": 40, "count": 12}
    found = subject.explain(LIME(**params), x, [281])
    assert_close(found.maps[0].array, oracle(Case(subject.plain, x, target=281, params=params)), TOLERANCE)


@pytest.mark.oracle("lime")
@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize(
    "how",
    [{}, {"segments": "squares", "hidden": "black", "seed": 4}, {"width": 1.0, "ridge": 0.01}, {"count": 60}],
)
def test_equals_scikit_learn(small, score, how):
    subject, x = small(tiny.classifier), tiny_input()
    params = {"samples": 50, "count": 12, "score": score, **how}
    found = subject.explain(LIME(**params), x, [1, 3])
    for i, target in enumerate((1, 3)):
        expected, intercept, r2 = fitted(Case(subject.plain, x, target=target, params=params))
        assert_close(found.maps[i].array, expected, 2e-5)
        assert found.details["intercept"][i] == pytest.approx(intercept, rel=1e-5, abs=1e-6)
        assert found.details["r2"][i] == pytest.approx(r2, abs=1e-4)


@pytest.mark.oracle("lime")
def test_of_a_score_that_is_a_sum_over_segments_it_finds_the_summands(small):
    subject = small(tiny.Shares)
    x = torch.full((1, 3, 32, 32), 1.0)
    found = subject.explain(LIME(segments="squares", count=4, ridge=1e-6, score="logit"), x, [0])
    assert_close(torch.tensor(found.details["weights"][0]), torch.tensor([1.0, 2.0, -3.0, 4.0]), 1e-4)
    assert found.details["r2"][0] == pytest.approx(1, abs=1e-6)


def test_samples_near_the_whole_picture_weigh_more():
    on = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    distance = torch.tensor([0, 1 - 0.75**0.5, 0.5, 1], dtype=torch.float64)
    assert_close(nearness(on, 0.25), torch.exp(-(distance**2) / 0.0625 / 2), 1e-12)


def test_the_first_sample_is_the_picture_and_the_others_are_tosses_of_a_coin():
    on = switches(4000, 6, seed=0)
    assert on[0].all()
    assert abs(float(on.float().mean()) - 0.5) < 0.02
    assert float((torch.corrcoef(on.float().T) - torch.eye(6)).abs().max()) < 0.06
    assert not torch.equal(on, switches(4000, 6, seed=1))


def test_a_score_that_does_not_move_has_no_r2(small):
    subject = small(tiny.classifier)
    still = torch.zeros(1, 3, 32, 32)  # it is what stands for it where it is hidden
    found = subject.explain(LIME(samples=20, count=4), still, [1])
    assert found.details["r2"] == [None]
    assert float(found.maps[0].array.abs().max()) < 1e-6


def test_callers_who_watch_see_a_fit_of_the_first_samples(small):
    subject, x = small(tiny.classifier), tiny_input()
    probe, method = Watched(subject), LIME(samples=30, count=4, score="logit")
    found = method.explain(probe, x, Targets(subject.facts, [2])).maps[0].array
    (shown,) = probe.shown
    assert len(shown) == 30 == method.passes(subject.facts, 1)
    assert torch.equal(shown[-1], found)
    assert shown[0].eq(0).all()
    assert oracles.relative_error(shown[25], found) < 0.5


@pytest.mark.parametrize(("score", "tolerant"), [("probability", True), ("logit", False)])
def test_less_than_float32_is_for_probabilities(score, tolerant):
    """In bfloat16, which halves its time, rounding moves the map by a third of what another seed does (lite0)."""
    assert LIME(score=score).tolerates_reduced_precision() == tolerant

import itertools
import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from service.contract import Targets
from service.engine.scheduler.run import Run
from service.explainers.perturbation.kernel_shap import KernelSHAP, coalitions, shares
from tests import oracles, tiny
from tests.explainers.conftest import Watched, assert_close, tiny_input
from tests.explainers.perturbation.test_segment_ablation import filling_of, labels_of
from tests.oracles import Case

DEFAULTS = {"score": "probability", "samples": 1000, "seed": 0}
TOLERANCE = 1e-4  # values are small differences of scores


def scores_of(case: Case, on: Tensor) -> Tensor:
    """Return the scores (n,) of the picture with segments switched, in double."""
    labels, how = labels_of(case), {**DEFAULTS, **case.params}
    pictures = (torch.where(row[labels], case.x, filling_of(case)) for row in on)
    return oracles.scores_of(case.network, pictures, case.target, how["score"]).double()


def oracle(case: Case) -> Tensor:
    """The weighted least squares of the coalitions, its constraint met by taking one segment as the rest."""
    labels, how = labels_of(case), {**DEFAULTS, **case.params}
    m = int(labels.max()) + 1
    on, weights = coalitions(m, how["samples"], how["seed"])
    ends = scores_of(case, torch.tensor([[True] * m, [False] * m]))
    f, change = scores_of(case, on) - ends[1], ends[0] - ends[1]
    z, root = on.double(), weights.sqrt()[:, None]
    first = torch.linalg.lstsq(root * (z[:, :-1] - z[:, -1:]), root * (f[:, None] - z[:, -1:] * change)).solution[:, 0]
    return torch.cat([first, (change - first.sum())[None]])[labels].float()


def shapley(case: Case) -> Tensor:
    """Shapley values of the segments by their definition, over all coalitions of the others: (M,)."""
    m = int(labels_of(case).max()) + 1
    subsets = list(itertools.product([False, True], repeat=m))
    f = dict(zip(subsets, scores_of(case, torch.tensor(subsets)).tolist(), strict=True))
    phi = torch.zeros(m, dtype=torch.float64)
    for i in range(m):
        for without in subsets:
            if not without[i]:
                size = sum(without)
                share = math.factorial(size) * math.factorial(m - size - 1) / math.factorial(m)
                phi[i] += share * (f[(*without[:i], True, *without[i + 1 :])] - f[without])
    return phi


@pytest.mark.oracle("kernel-shap")
@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("how", [{"segments": "squares"}, {"segments": "slic", "hidden": "black"}])
def test_are_shapley_values_where_all_coalitions_fit(small, score, how):
    subject, x = small(tiny.classifier), tiny_input()
    params = {"count": 9, "score": score, **how}
    found = subject.explain(KernelSHAP(**params), x, [1, 3])
    assert found.exact
    for i, target in enumerate((1, 3)):
        expected = shapley(Case(subject.plain, x, target=target, params=params))
        assert_close(torch.tensor(found.details["weights"][i]), expected, 1e-5)


@pytest.mark.oracle("kernel-shap")
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_equals_least_squares_on_real_networks(subjects, name):
    subject, x = subjects(name), oracles.photograph("chelsea", 64)
    params = {"samples": 40, "count": 12}
    found = subject.explain(KernelSHAP(**params), x, [281])
    assert not found.exact
    assert_close(found.maps[0].array, oracle(Case(subject.plain, x, target=281, params=params)), TOLERANCE)


@pytest.mark.oracle("kernel-shap")
@pytest.mark.parametrize("samples", [32, 101, 600])
def test_values_add_up_to_what_hiding_all_changes(small, samples):
    subject, x = small(tiny.vgg), tiny_input()
    params = {"samples": samples, "count": 16, "score": "logit", "segments": "squares"}
    found = subject.explain(KernelSHAP(**params), x, [1, 3])
    for i, target in enumerate((1, 3)):
        case = Case(subject.plain, x, target=target, params=params)
        ends = scores_of(case, torch.tensor([[True] * 16, [False] * 16]))
        change = float(ends[0] - ends[1])
        assert sum(found.details["weights"][i]) == pytest.approx(change, abs=1e-5)
        assert found.details["change"][i] == pytest.approx(change, abs=1e-5)
        assert abs(found.details["residual"][i]) < 1e-10
        assert_close(found.maps[i].array, oracle(case), 1e-4)
        assert found.details["r2"][i] <= 1


@pytest.mark.oracle("kernel-shap")
def test_errs_less_than_half_as_much_as_captum_with_as_many_rows(small):
    """Against all coalitions of twelve segments."""
    subject, x = small(tiny.vgg), tiny_input()
    given = {"count": 12, "segments": "squares", "score": "logit"}
    case = Case(subject.plain, x, target=1, params=given)
    labels = labels_of(case)
    exact = subject.explain(KernelSHAP(samples=5000, **given), x, [1])
    assert exact.exact
    truth = torch.tensor(exact.details["weights"][0])
    with oracles.quiet(), torch.no_grad():
        from captum.attr import KernelShap

        torch.manual_seed(0)
        theirs = KernelShap(oracles.plain_copy(subject.plain)).attribute(
            x.clone(),
            feature_mask=labels.expand(1, 3, -1, -1),
            baselines=0,
            target=1,
            n_samples=200,
            perturbations_per_eval=16,
        )[0, 0]
    ours = subject.explain(KernelSHAP(samples=198, **given), x, [1])
    mine = float((torch.tensor(ours.details["weights"][0]) - truth).norm() / truth.norm())
    other = float((theirs - truth[labels]).norm() / truth[labels].norm())
    assert mine < other / 2


@pytest.mark.parametrize(("m", "samples"), [(9, (70, 90, 100, 140)), (12, (100, 160, 200, 400))])
def test_more_rows_err_less(m, samples):
    """Also where further sizes just fit, which would leave few rows for all the others; on a game of random triples."""
    triples = list(itertools.combinations(range(m), 3))
    worth = torch.randn(len(triples), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = torch.zeros(m, dtype=torch.float64)
    for value, triple in zip(worth, triples, strict=True):
        truth[list(triple)] += value / 3

    def error(samples: int) -> float:
        off = 0.0
        for seed in range(12):
            on, w = coalitions(m, samples, seed)
            f = torch.stack([on[:, list(triple)].all(1) for triple in triples], 1).double() @ worth
            phi = shares(on, f[:, None], w, torch.zeros(1, dtype=torch.float64), worth.sum()[None])
            off += float((phi[:, 0] - truth).norm())
        return off

    errors = [error(count) for count in samples]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("m", "samples"), [(2, 16), (5, 30), (8, 254), (8, 253), (9, 100), (10, 500), (49, 1000), (256, 600)]
)
def test_coalitions_weigh_what_the_kernel_says(m, samples):
    on, weights = coalitions(m, samples, seed=3)
    sizes = on.sum(1)
    assert len(on) == len(weights) <= samples
    assert len(on) >= min(samples - 1, 2**m - 2)
    assert int(sizes.min()) >= 1
    assert int(sizes.max()) <= m - 1
    assert len(on.unique(dim=0)) == len(on)  # none twice
    assert torch.equal((~on).unique(dim=0), on.unique(dim=0))  # pairs of complements
    kernel = {k: (m - 1) / (k * (m - k)) for k in range(1, m)}
    assert float(weights.sum()) == pytest.approx(sum(kernel.values()))
    whole = [k for k in kernel if int((sizes == k).sum()) == math.comb(m, k)]
    for k in whole:
        assert float(weights[sizes == k].sum()) == pytest.approx(kernel[k])
    assert {1, m - 1} <= {*whole}  # each segment alone, and each one alone hidden
    for k in kernel.keys() - {*whole}:  # as many of each size as the kernel has weight there, within one
        drawn = len(on) - sum(math.comb(m, k) for k in whole)
        share = kernel[k] / sum(kernel[i] for i in kernel.keys() - {*whole})
        assert abs(int((sizes == k).sum()) - share * drawn) <= 2
    assert torch.equal(coalitions(m, samples, seed=3)[0], on)
    assert 2**m - 2 <= samples or not torch.equal(coalitions(m, samples, seed=4)[0], on)


def test_too_few_samples_are_refused_with_what_is_enough():
    with pytest.raises(ValidationError, match="samples 99 are too few to tell 50 segments apart; choose at least 100"):
        KernelSHAP(samples=99)
    assert KernelSHAP(samples=100).samples == 100


@pytest.mark.parametrize("count", [2, 3, 12])
def test_passes_are_known_beforehand(small, count):
    subject, run = small(tiny.classifier), Run()
    method = KernelSHAP(samples=64, count=count, segments="squares")
    method.explain(subject.probe(run), tiny_input(), Targets(subject.facts, [1]))
    assert run.usage.forwards + run.usage.avoided == method.passes(subject.facts, 1) == min(64, 2**count - 2) + 2


def test_one_segment_has_all_of_the_change(small, monkeypatch):
    """A cut may leave a single segment where all pixels are alike."""
    subject, x = small(tiny.classifier), tiny_input()
    monkeypatch.setattr(KernelSHAP, "labels", lambda self, facts, image: torch.zeros(32, 32, dtype=torch.int64))
    found = subject.explain(KernelSHAP(score="logit"), x, [1])
    change = subject.plain(x)[0, 1] - subject.plain(torch.zeros_like(x))[0, 1]
    assert_close(found.maps[0].array, change.expand(32, 32))
    assert found.exact


def test_callers_who_watch_see_values_that_add_up(small):
    subject, x = small(tiny.classifier), tiny_input()
    probe, method = Watched(subject), KernelSHAP(samples=32, count=4, score="logit", segments="squares")
    found = method.explain(probe, x, Targets(subject.facts, [2]))
    (shown,) = probe.shown
    assert len(shown) == 2 + 14
    assert torch.equal(shown[-1], found.maps[0].array)
    assert shown[0].eq(0).all()
    for m in shown[1:]:
        assert float(m[::16, ::16].sum()) == pytest.approx(found.details["change"][0], abs=1e-5)

"""What is chosen, given numbers."""

from dataclasses import replace

import pytest
import scipy.stats
import torch
from pydantic import TypeAdapter

from service.contract import Explanation, Map
from service.tuning.choice import (
    AGREEMENT,
    ERROR,
    NEAR_BEST,
    PAYS,
    SCORES,
    Agreement,
    Measured,
    Timing,
    Tuned,
    batch_rows,
    preferred,
    rank_correlation,
)

FIT = Agreement(AGREEMENT, SCORES, ERROR)


@pytest.mark.parametrize(
    ("rates", "agreement", "chosen"),
    [
        ({"fp32": 100, "bf16": 300}, {"bf16": FIT}, "bf16"),
        ({"fp32": 100, "bf16": 300}, {"bf16": replace(FIT, maps=AGREEMENT - 1e-6)}, "fp32"),
        ({"fp32": 100, "bf16": 300}, {"bf16": replace(FIT, scores=SCORES - 1e-6)}, "fp32"),
        ({"fp32": 100, "bf16": 300}, {"bf16": replace(FIT, error=ERROR + 1e-6)}, "fp32"),
        ({"fp32": 100, "bf16": 300}, {}, "fp32"),  # nothing is known of its maps
        ({"fp32": 100, "bf16": 100 * PAYS}, {"bf16": FIT}, "bf16"),
        ({"fp32": 100, "bf16": 100 * PAYS - 1}, {"bf16": FIT}, "fp32"),
        ({"fp32": 100, "bf16": 300, "fp16": 200}, {"bf16": replace(FIT, maps=0.9), "fp16": FIT}, "fp16"),
        ({"fp32": 100, "bf16": 200, "fp16": 300}, {"bf16": FIT, "fp16": FIT}, "fp16"),  # the fastest that agrees
        ({"fp32": 100}, {}, "fp32"),  # also where no map was compared
        ({}, {}, "fp32"),  # nor anything timed
    ],
)
def test_a_precision_has_to_agree_and_to_pay(rates, agreement, chosen):
    assert preferred(rates, agreement) == chosen


def _explained(cic):
    """Return what Score-CAM finds where three channels, active at a pixel each, score so much."""
    weights = torch.tensor(cic).softmax(0)
    return Explanation([Map("score-cam", torch.diag(weights))], {"cic": [cic]})


def test_agreement_sees_what_maps_hide():
    """Weights that are all equal make a map of nearly the right order, as probabilities change weights by e at most."""
    true, equal = _explained([0.9, 0.1, 0.2]), _explained([0.5, 0.5, 0.5])
    near, found = (Agreement.of(one, true) for one in (_explained([0.88, 0.11, 0.2]), equal))
    assert (near.maps, near.scores, near.error) == pytest.approx((1, 1, 0.02))
    assert near.enough
    assert (found.scores, found.error) == pytest.approx((0, 0.4))
    assert not found.enough
    worse = found.least(near)
    assert (worse.scores, worse.error) == (found.scores, found.error)
    assert worse.maps == min(found.maps, near.maps)
    assert not Agreement.of(_explained([float("nan"), 0.1, 0.2]), true).enough


def test_the_smallest_batch_near_the_best_is_taken():
    def timed(rows, rate, variant="plain", precision="fp32"):
        return Timing(precision, variant, rows, rate)

    near, less = 100 * NEAR_BEST, 100 * NEAR_BEST - 0.1
    best = timed(64, 100)
    others = [timed(1, 200, "folded"), timed(2, 200, precision="bf16")]  # of other ways to run it
    assert batch_rows([timed(4, less), timed(8, near), timed(16, 99), best, *others], best) == 8
    assert batch_rows([timed(4, less), best, *others], best) == 64


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_spearmans(seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(50, generator=generator).relu()  # ties
    b = a + torch.randn(50, generator=generator).mul(0.5).relu()
    assert rank_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-9)
    assert rank_correlation(torch.zeros(9), torch.zeros(9)) == 1
    assert rank_correlation(torch.zeros(9), torch.arange(9.0)) == 0


def test_beside_a_library_the_fastest_copy_in_pytorch_is_known():
    def timed(variant, rate, precision="fp32"):
        return Timing(precision, variant, 1, rate)

    timings = [timed("plain", 100), timed("folded", 150), timed("onnxruntime", 300), timed("half", 900, "bf16")]
    tuned = Tuned(timings, variants={"fp32": "onnxruntime", "bf16": "half"})
    assert (tuned.copies, tuned.quicker) == ({"fp32": "folded", "bf16": "half"}, 2)
    tuned = Tuned(timings, variants={"fp32": "folded"})
    assert (tuned.copies, tuned.quicker) == ({"fp32": "folded"}, 1)
    assert (Tuned(variants={"fp32": "plain"}).copies, Tuned().quicker) == ({"fp32": "plain"}, 1)


FORM = TypeAdapter(Measured)
TIMED = {"precision": "fp32", "variant": "plain", "rows": 8, "rows_per_s": 90}


@pytest.mark.parametrize(
    "wrong",
    [
        {"timings": "none"},
        {"timings": [{"rows": 8}]},
        {"timings": [TIMED | {"rows": 2.5}]},
        {"timings": [TIMED | {"rows": -4}]},
        {"timings": [TIMED | {"rows_per_s": -1}]},
        {"timings": [TIMED | {"rows_per_s": "high"}]},
        {"agreement": {"bf16": "high"}},
        {"agreement": {"bf16": float("nan")}},
        {"weights_agreement": {"bf16": float("inf")}},
        {"probability_error": {"bf16": float("inf")}},
        {"probability_error": {"bf16": -0.1}},
        {"variants": []},
        {"variants": {"fp7": "plain"}},
        {"variants": {"fp32": None}},
        {"batch_rows": {"fp32": 2.5}},
        {"batch_rows": {"fp32": None}},
        {"batch_rows": {"fp32": 0}},
        {"batch_rows": {"fp32": 4097}},
        {"batch_rows": {"fp32": 10**400}},
        {"preferred": "bf17"},
        {"preferred": []},
        {"seconds": "long"},
        {"seconds": float("nan")},
        {"seconds": -1},
        {"answer": "x"},
        {"answer": [float("nan")]},
        {"answer": [10**400]},
        {"answer": None},
        {"missing": [1]},
        {"more": 1},
        {"timings": [TIMED | {"more": 1}]},
    ],
)
def test_what_was_written_is_read_where_each_field_is_of_its_kind(wrong):
    """A batch of two and a half rows would end the engine."""
    record = {"timings": [TIMED], "variants": {"fp32": "plain"}, "batch_rows": {"fp32": 8}, "seconds": 3, "answer": [1]}
    timings = [Timing("fp32", "plain", 8, 90.0)]
    assert FORM.validate_python(record) == Measured(
        timings, {}, {}, {}, {"fp32": "plain"}, {"fp32": 8}, "fp32", 3.0, answer=[1.0]
    )
    with pytest.raises(ValueError, match="validation error"):
        FORM.validate_python(record | wrong)

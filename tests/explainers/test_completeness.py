"""What adds up says so: whoever promises it tells, of each map, to what, and by how much it misses."""

import pytest
import torch

from service.explainers.base import registry
from tests import tiny as nets
from tests.explainers.conftest import tiny_input

# What a map's values add up to, where that is their sum or mean; others add up before they are shown.
PROMISES = {
    "cam": "mean",
    "integrated-gradients": "sum",
    "blur-ig": "sum",
    "guided-ig": "sum",
    "gradient-shap": "sum",
    "deep-lift": "sum",
    "kernel-shap": "segments",
    "partition-shap": "sum",
    "lrp": "sum",
    "full-grad": "parts",
}
QUICK = {"gradient-shap": {"samples": 5}, "guided-ig": {"steps": 8}, "kernel-shap": {"samples": 30, "count": 6}}


@pytest.mark.parametrize("name", PROMISES)
def test_what_is_told_is_what_the_map_adds_up_to(small, name) -> None:
    subject = small(nets.classifier)
    found = subject.explain(registry()[name](**QUICK.get(name, {})), tiny_input(), [1, 3])
    assert len(found.maps) == 2
    for one in found.maps:
        assert one.completeness is not None
        change, residual = one.completeness.change, one.completeness.residual
        if PROMISES[name] in ("sum", "mean"):
            added = one.array.double().sum() if PROMISES[name] == "sum" else one.array.double().mean()
            assert float(added) == pytest.approx(change + residual, rel=1e-3, abs=1e-4)
        elif PROMISES[name] == "segments":
            values = torch.tensor(found.details["weights"], dtype=torch.float64).sum(1)
            assert any(abs(float(v) - change - residual) < 1e-6 for v in values)


@pytest.mark.parametrize("name", ["ram"])
def test_regressions_add_up_too(small, name) -> None:
    subject = small(nets.regression, 32, "regression")
    (one,) = subject.explain(registry()[name](), tiny_input()).maps
    assert one.completeness is not None
    assert float(one.array.double().mean()) == pytest.approx(one.completeness.change, rel=1e-4, abs=1e-5)


def test_others_promise_nothing(small) -> None:
    subject = small(nets.classifier)
    for name in ("grad-cam", "saliency", "gradient-x-input"):
        (one,) = subject.explain(registry()[name](), tiny_input(), [1]).maps
        assert one.completeness is None

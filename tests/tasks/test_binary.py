"""One output: index 0, with its sigmoid."""

import pytest
import torch

from service.errors import CatalogError, InvalidParameter
from tests.tasks.conftest import Trunk, pooled
from tests.tasks.methods import check_methods

ENDS = {
    "logit": lambda y: y,
    "sigmoid": lambda y: y.sigmoid(),
    "one axis": lambda y: y[:, 0].sigmoid(),
    "sigmoid by hand": lambda y: 1 / (1 + (-y).exp()),
}


@pytest.mark.parametrize("kind", ["logit", "probability"])
@pytest.mark.parametrize("end", ENDS)
def test_methods_and_predictions(make, x, end, kind) -> None:
    subject = make(Trunk(lambda t, a: ENDS[end](pooled(t, a)), 1), "binary")

    def score(y):
        y = y.reshape(())
        if kind == "probability":
            return y.sigmoid() if end == "logit" else y
        return y if end == "logit" else y.logit()

    check_methods(subject, x, None, score, kind)
    p = subject.plain(x).reshape(()).sigmoid() if end == "logit" else subject.plain(x).reshape(())
    (found,) = subject.task.predictions(subject.answer(x), subject.facts, 5)
    assert (found.index, found.probability) == (0, pytest.approx(float(p), rel=1e-4))
    assert found.logit == pytest.approx(float(p.logit()), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("end", "assumed"), [("logit", True), ("sigmoid", False), ("one axis", False), ("sigmoid by hand", False)]
)
def test_one_output_is_taken_for_binary_and_said_where_that_is_a_guess(make, end, assumed) -> None:
    subject = make(Trunk(lambda t, a: ENDS[end](pooled(t, a)), 1), "classification", task_known=False)
    assert subject.task.name == "binary"
    assert subject.facts.task_assumed == assumed
    check = {c.name: c for c in subject.facts.checks}["task"]
    assert check.outcome == ("warning" if assumed else "passed")
    assert not assumed or "regression" in check.remedy


def test_only_index_0_can_be_asked_and_only_one_output_can_be_binary(make) -> None:
    subject = make(Trunk(pooled, 1), "binary", labels=("bright",))
    assert subject.task.read(["bright", 0], subject.facts)[0].index == 0
    with pytest.raises(InvalidParameter, match="outputs 0 to 0"):
        subject.task.read([1], subject.facts)
    with pytest.raises(CatalogError, match="has 4"):
        make(Trunk(pooled), "binary")
    with pytest.raises(CatalogError, match="its softmax is 1"):
        make(Trunk(pooled, 1), "classification")


def test_certain_networks_have_finite_logits(make) -> None:
    subject = make(Trunk(lambda t, a: 1 / (1 + (-pooled(t, a)).exp()), 1), "binary")
    for p in (0.0, 1.0):
        (found,) = subject.task.predictions(torch.tensor([p]), subject.facts, 1)
        assert found.probability == p
        assert abs(found.logit) < 100

"""Classes that exclude each other, whatever the network's numbers are."""

import pytest
import torch

from tests.tasks.conftest import Trunk, pooled
from tests.tasks.methods import check_methods

ENDS = {
    "logits": lambda y: y,
    "softmax": lambda y: y.softmax(1),
    "log-softmax": lambda y: y.log_softmax(1),
    "softmax by hand": lambda y: y.exp() / y.exp().sum(1, keepdim=True),
    "logarithm of that": lambda y: (y.exp() / y.exp().sum(1, keepdim=True)).log(),
}


@pytest.fixture(scope="module", params=ENDS)
def ended(request, make):
    return request.param, make(Trunk(lambda t, a: ENDS[request.param](pooled(t, a))), "classification")


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_methods_and_predictions_agree_whatever_the_network_ends_in(ended, x, kind) -> None:
    name, subject = ended
    proved = name in ("softmax", "log-softmax")
    assert subject.task.scale == {"softmax by hand": "probabilities", "logarithm of that": "log-probabilities"}.get(
        name, "logits"
    )

    def score(_):
        raise NotImplementedError

    def logits(y):
        if name == "logits":
            return y
        return y.log() if name.startswith("softmax") else y

    def of(y):
        z = logits(y)
        return z.softmax(1)[0, 2] if kind == "probability" else z[0, 2]

    if kind == "probability" or not proved:
        check_methods(subject, x, 2, of, kind)
    else:  # the logits that stand before the softmax: those of the network without it
        plain = subject.plain.head
        subject.plain.head = lambda t, a: pooled(t, a)
        try:
            check_methods(subject, x, 2, lambda y: y[0, 2], kind)
        finally:
            subject.plain.head = plain
    expected = logits(subject.plain(x)).softmax(1)[0]
    (found,) = subject.task.predictions(subject.answer(x), subject.facts, 1)
    assert found.index == int(expected.argmax())
    assert found.probability == pytest.approx(float(expected.max()), rel=1e-4)
    (default,) = subject.task.default(subject.answer(x))
    assert default.index == found.index
    assert subject.task.strength(default, subject.answer(x)) == pytest.approx(found.probability)


def test_a_contrast_explains_what_tells_two_classes_apart(make, x) -> None:
    subject = make(Trunk(pooled), "classification")
    check_methods(subject, x, {"class": 1, "against": [0, 3]}, lambda y: y[0, 1] - (y[0, 0] + y[0, 3]) / 2, "logit")
    check_methods(
        subject, x, {"class": 1, "against": [0]}, lambda y: y.softmax(1)[0, 1] - y.softmax(1)[0, 0], "probability"
    )
    (target,) = subject.task.read([{"class": 1, "against": [0]}], subject.facts)
    assert (target.index, target.asked) == (1, {"class": 1, "against": [0]})
    table = torch.tensor([1.0, 4.0, 9.0, 16.0])
    assert float(target(table)) == 3.0

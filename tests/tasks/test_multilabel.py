"""Independent classes: each has a probability of its own, and those that are there are explained."""

import pytest
import torch

from service.errors import InvalidParameter
from tests.tasks.conftest import Trunk, pooled
from tests.tasks.methods import check_methods


@pytest.fixture(scope="module")
def subject(make):
    return make(Trunk(lambda t, a: pooled(t, a) * 4), "multilabel", labels=("cat", "dog", "cow", "owl"))


@pytest.fixture(scope="module")
def ended(make):
    return make(Trunk(lambda t, a: (pooled(t, a) * 4).sigmoid()), "multilabel")


def test_predictions_are_sigmoids_that_need_not_add_up(subject, x) -> None:
    logits = subject.plain(x)[0]
    found = subject.task.predictions(subject.answer(x), subject.facts, 3)
    assert [p.index for p in found] == logits.argsort(descending=True)[:3].tolist()
    for p in found:
        assert p.probability == pytest.approx(float(logits[p.index].sigmoid()), rel=1e-4)
        assert p.logit == pytest.approx(float(logits[p.index]), rel=1e-4)
        assert p.label == subject.facts.labels[p.index]


def test_all_that_are_there_are_explained_or_the_likeliest(subject) -> None:
    task = subject.task
    there = task.default(torch.tensor([0.2, -3.0, 2.0, 1.0]))
    assert [t.index for t in there] == [2, 3, 0]
    assert [t.index for t in task.default(torch.tensor([-2.0, -3.0, -1.0, -4.0]))] == [2]
    assert len(task.default(torch.linspace(1, 2, 9))) == 5


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_methods(subject, x, kind) -> None:
    def score(y):
        return y[0, 2].sigmoid() if kind == "probability" else y[0, 2]

    check_methods(subject, x, "cow", score, kind)


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_a_network_that_ends_in_a_sigmoid_has_its_logits_before_it(ended, x, kind) -> None:
    assert "sigmoid" in {c.name: c for c in ended.facts.checks}["ending"].found

    def score(y):
        return y[0, 1] if kind == "probability" else y[0, 1].logit()

    check_methods(ended, x, 1, score, kind)
    assert ended.task.predictions(ended.answer(x), ended.facts, 4)[0].probability == pytest.approx(
        float(ended.plain(x).max()), rel=1e-4
    )


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_probabilities_whose_logits_cannot_be_seen(make, x, kind) -> None:
    subject = make(Trunk(lambda t, a: 1 / (1 + (-4 * pooled(t, a)).exp())), "multilabel")
    assert subject.task.scale == "probabilities"

    def score(y):
        return y[0, 1] if kind == "probability" else y[0, 1].logit()

    check_methods(subject, x, 1, score, kind)


def test_contrasts(subject, x) -> None:
    check_methods(subject, x, {"class": "cat", "against": [2, "owl"]}, lambda y: y[0, 0] - y[0, [2, 3]].mean(), "logit")


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        (4, "/targets/0"),
        ("horse", "/targets/0"),
        (True, "/targets/0"),
        ({"class": 9}, "/targets/0/class"),
        ({"against": [1]}, "/targets/0"),
        ({"class": 0, "against": [0]}, "/targets/0/against"),
        ({"class": 0, "against": 1}, "/targets/0/against"),
        ({"class": 0, "against": [7]}, "/targets/0/against/0"),
        ({"class": 0, "region": "predicted"}, "/targets/0/region"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_field(subject, asked, pointer) -> None:
    with pytest.raises(InvalidParameter) as caught:
        subject.task.read([asked], subject.facts)
    assert caught.value.errors[0].pointer == pointer

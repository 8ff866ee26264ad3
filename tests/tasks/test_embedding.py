"""Embeddings mean something beside other pictures only: cosines to those that a request names."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from service.contract import Targets
from service.errors import InvalidParameter, NotApplicable
from service.explainers.gradient.deep_lift import DeepLIFT
from service.explainers.gradient.saliency import Saliency
from service.explainers.propagation.attn_lrp import AttnLRP
from service.explainers.propagation.excitation_backprop import ExcitationBackprop
from service.explainers.propagation.lrp import LRP
from tests.tasks.conftest import SIZE, Trunk, pooled, target_of
from tests.tasks.methods import check_methods


@pytest.fixture(scope="module")
def subject(make):
    return make(Trunk(pooled, 6), "embedding")


@pytest.fixture(scope="module")
def pictures():
    return list(torch.randn(3, 1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5)))


def test_methods_explain_the_cosine(subject, x, pictures) -> None:
    like = [F.normalize(subject.plain(p), dim=1)[0] for p in pictures]

    def one(y):
        return F.normalize(y, dim=1)[0] @ like[1]

    check_methods(subject, x, {"like": [1]}, one, "value", pictures=pictures)

    def several(y):
        e = F.normalize(y, dim=1)[0]
        return (e @ like[0] + e @ like[2]) / 2 - e @ like[1]

    asked = {"like": [0, 2], "unlike": [1], "measure": "cosine"}
    check_methods(subject, x, asked, several, "value", pictures=pictures)


def test_the_prediction_is_the_length_and_the_strength_the_cosine(subject, x, pictures) -> None:
    (found,) = subject.task.predictions(subject.answer(x), subject.facts, 5)
    assert found.norm == pytest.approx(float(subject.plain(x).norm()), rel=1e-4)
    readout, targets = subject.asked(x, [{"like": [0]}, {"like": [2]}], pictures)
    table = readout(subject.plain(x))[0]
    expected = F.cosine_similarity(subject.plain(x), subject.plain(pictures[2]))
    assert subject.task.strength(targets.given[1], table) == pytest.approx(float(expected), rel=1e-4)
    # A picture is wholly like itself.
    readout, targets = subject.asked(x, [{"like": [0]}], [x])
    assert subject.task.strength(target_of(targets), readout(subject.plain(x))[0]) == pytest.approx(1, abs=1e-5)


def test_other_pictures_are_other_readouts_to_whoever_keeps_answers(subject, x, pictures) -> None:
    first, second = (subject.asked(x, [{"like": [0]}], [p])[0].key for p in pictures[:2])
    assert first != second
    assert first == subject.asked(x, [{"like": [0]}], pictures[:1])[0].key


def test_nothing_is_explained_where_no_picture_is_named(subject, x) -> None:
    with pytest.raises(NotApplicable, match="means nothing alone"):
        subject.asked(x, None)
    assert len(Targets(subject.facts)) == 1


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        (0, "/targets/0"),
        ("cat", "/targets/0"),
        ({"like": []}, "/targets/0/like"),
        ({"like": 0}, "/targets/0/like"),
        ({"like": [3]}, "/targets/0/like/0"),
        ({"like": [0], "unlike": ["a"]}, "/targets/0/unlike/0"),
        ({"like": [0], "measure": "l2"}, "/targets/0/measure"),
        ({"unlike": [0]}, "/targets/0"),
        ({"like": [0], "class": 1}, "/targets/0/class"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_field(subject, asked, pointer) -> None:
    with pytest.raises(InvalidParameter) as caught:
        subject.task.read([asked], subject.facts, 3)
    assert caught.value.errors[0].pointer == pointer


def test_outputs_of_length_one_are_an_embedding_without_anybody_saying_so(make, x, pictures) -> None:
    subject = make(Trunk(lambda t, a: F.normalize(pooled(t, a), dim=1), 6), "classification", task_known=False)
    assert subject.task.name == "embedding"
    assert not subject.facts.task_assumed
    assert subject.explain(Saliency(), x, [{"like": [0]}], pictures=pictures).maps[0].array.any()


RULED = [
    LRP(rules="epsilon"),
    LRP(rules="z-plus"),
    AttnLRP(),
    DeepLIFT(),
    DeepLIFT(baseline="grey"),
]


@pytest.fixture(scope="module")
def unbiased(make):
    """An embedding whose relevance no bias takes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolutions = [nn.Conv2d(3, 8, 5, 4, 2, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, bias=False)]
        head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6, bias=False)]
        return make(nn.Sequential(*convolutions, *head), "embedding")


@pytest.mark.parametrize("method", RULED, ids=lambda method: method.name)
def test_a_cosine_is_shared_out_as_a_norm_and_a_linear_layer(unbiased, x, pictures, method) -> None:
    """By its derivative its relevance would add up to nothing, and its change to another one."""
    asked = [{"like": [0]}, {"like": [1, 2]}]
    ours, plain = (
        explain(method, x, asked, pictures=pictures) for explain in (unbiased.explain, unbiased.explain_plainly)
    )
    for m in (*ours.maps, *plain.maps):
        assert abs(m.completeness.change) > 1e-3
        assert abs(m.completeness.residual) < 1e-2 * abs(m.completeness.change)
    for a, b in zip(ours.maps, plain.maps, strict=True):
        torch.testing.assert_close(a.array, b.array, rtol=1e-3, atol=1e-5)


def test_walks_to_what_excites_end_where_coordinates_may_be_below_zero(unbiased) -> None:
    with pytest.raises(NotApplicable, match=r"below zero, which nothing excites; use 'lrp'"):
        ExcitationBackprop.require(unbiased.facts)

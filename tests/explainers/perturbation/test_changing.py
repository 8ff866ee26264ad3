import pytest
import torch

from service.contract import Target
from service.explainers.perturbation.changing import dark, heat_kind
from tests import tiny
from tests.explainers.conftest import tiny_input


def test_a_mask_of_zeros_leaves_black_or_the_mean_colour(small):
    facts, x = small(tiny.classifier).facts, tiny_input()
    shown = facts.shown(dark(facts, x, "pixels")[None])
    assert float(shown.abs().max()) < 1e-6
    assert dark(facts, x, "normalised").eq(0).all()
    assert dark(facts, x, "pixels").shape == dark(facts, x, "normalised").shape == (3, 1, 1)
    assert dark(facts, x.double(), "pixels").dtype == torch.float64


@pytest.mark.parametrize(
    ("score", "terms", "kind"),
    [
        ("probability", (), "positive"),
        ("probability", ((1, 0.5), (2, 0.5)), "positive"),
        ("probability", ((1, 1.0), (2, -1.0)), "signed"),
        ("logit", (), "signed"),
        ("value", (), "signed"),
    ],
)
def test_only_what_cannot_be_negative_is_positive(small, score, terms, kind):
    assert heat_kind(small(tiny.classifier).facts, score, Target(1, terms)) == kind


def test_a_value_may_be_negative_whatever_score_is_asked_for(small):
    assert heat_kind(small(tiny.regression, task="regression").facts, "probability", Target(0)) == "signed"

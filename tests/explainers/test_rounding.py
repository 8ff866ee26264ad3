import pytest
import torch
from torch.testing import assert_close

from service.contract import Targets
from service.explainers.base import registry
from service.explainers.rounding import ROUNDING, added, steady, varies, weighted
from tests import tiny
from tests.explainers.conftest import tiny_input
from tests.plain import PlainProbe

F = torch.tensor([[1.0, 100.0, 0.0, -5.0], [1.0, 100.00001, 0.0, -5.1]], dtype=torch.float64)
JUDGES = {  # methods that say how scores differ, with what a test can pay for
    "group-cam": {"groups": 4},
    "hsic": {"samples": 32, "cells": 4},
    "kernel-shap": {"samples": 40, "count": 9},
    "lime": {"samples": 40, "count": 9},
    "segment-ablation": {"count": 9},
    "sobol": {"designs": 4, "cells": 3},
}


def test_rounding_is_no_variation():
    assert varies(F).tolist() == [False, False, False, True]


def test_scores_that_differ_by_rounding_alone_are_one():
    assert steady(F).tolist() == [[1.0, 100.0, 0.0, -5.0], [1.0, 100.0, 0.0, -5.1]]


def test_terms_that_cancel_but_for_rounding_leave_nothing():
    a = torch.randn(768, 4, 5, generator=torch.Generator().manual_seed(0))
    a = a - a.mean(0)  # as a layer norm leaves features
    w = torch.stack([torch.full((768,), 1 / 768), torch.linspace(0, 1, 768)])
    expected = torch.einsum("tk,khw->thw", w.double(), a.double()).float()
    assert torch.einsum("k,khw->hw", w[0], a).abs().max() > 0  # which would be drawn in full colours
    for found in (weighted(w, a), weighted(w, a.expand(2, -1, -1, -1)), added(w[:, :, None, None] * a)):
        assert not found[0].any()
        assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)


def relative(found, expected):
    """Return how far maps (T, h, w) are off, each as a share of its largest value, (T,)."""
    return (found.double() - expected).abs().amax((1, 2)) / expected.abs().amax((1, 2))


@pytest.mark.parametrize("own", [False, True])
def test_what_weights_have_in_common_says_nothing_where_features_cancel(own):
    """Weights that differ by little, or are of both signs about a mean, over what a layer norm leaves in float32."""
    seeded = torch.Generator().manual_seed(0)
    exact = torch.randn(768, 4, 5, generator=seeded).double()
    exact = exact - exact.mean(0)
    w = (1 + torch.tensor([[1e-5], [1e-4], [3.0]]) * torch.randn(3, 768, generator=seeded).double()) / 768
    expected = torch.einsum("tk,khw->thw", w, exact)
    a = exact.float()
    plainly = torch.einsum("tk,khw->thw", w.float(), a)
    assert relative(plainly, expected)[0] > 1e-3
    maps = a.expand(3, -1, -1, -1) if own else a
    found = weighted(w, maps, off=1e-9 * w.abs())
    assert found.dtype == torch.float32
    assert relative(found, expected).amax() < 2e-6
    doubtful = weighted(w, maps)  # weights that may be off by a millionth are all one where they differ by ten
    assert not doubtful[0].any()
    assert torch.equal(doubtful[1:], found[1:])


def test_a_sum_of_features_that_do_not_cancel_is_told():
    """The mean weight counts wherever features add up to something."""
    a = torch.rand(96, 4, 5, generator=torch.Generator().manual_seed(0))
    w = torch.stack([torch.full((96,), 1 / 96), torch.linspace(-1, 1, 96)])
    assert relative(weighted(w, a), torch.einsum("tk,khw->thw", w.double(), a.double())).amax() < 1e-6


def test_terms_are_added_up_in_double():
    seeded = torch.Generator().manual_seed(0)
    parts = torch.randn(2, 2048, 4, 5, generator=seeded)
    parts[:, ::2] = -parts[:, 1::2] * (1 + 3e-4 * torch.randn(2, 1024, 4, 5, generator=seeded))
    expected = parts.double().sum(1)
    assert relative(parts.sum(1), expected).amax() > 1e-4
    assert relative(added(parts), expected).amax() < 1e-7


def test_maps_keep_their_format_whatever_weights_have():
    for w, a in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        found = weighted(torch.ones(1, 2, dtype=w), torch.ones(2, 1, 1, dtype=a))
        assert_close(found, torch.full((1, 1, 1), 2.0, dtype=a))


class Unsteady(PlainProbe):
    """A probe of a network that answers every picture alike, up to rounding."""

    def scores(self, rows, *, sketch=None):
        one = self._table(torch.zeros(1, 3, *self.facts.input_size)).expand(rows.count, -1)
        noise = torch.randn(one.shape, generator=torch.Generator().manual_seed(rows.count))
        return one * (1 + ROUNDING / 20 * noise)


def test_rounding_is_not_shown_as_evidence(small):
    subject = small(tiny.classifier)
    probe = Unsteady(subject.plain, subject.facts)
    for name, params in JUDGES.items():
        for score in ("logit", "probability"):
            found = registry()[name](score=score, **params).explain(probe, tiny_input(), Targets(subject.facts, [1, 3]))
            assert all(float(m.array.abs().max()) == 0 for m in found.maps), name
    found = registry()["rise"](masks=30).explain(probe, tiny_input(), Targets(subject.facts, [1, 3]))
    assert all(m.array.min() == m.array.max() for m in found.maps)


COMPARE = {  # methods that show scores, or what they differ by, with what a test can pay for
    **JUDGES,
    "ablation-cam": {"layer": "relu2"},
    "is-cam": {"layer": "relu2", "weights": "raw", "samples": 2},
    "occlusion": {"window": 12, "stride": 10},
    "partition-shap": {"evaluations": 40},
    "recipro-cam": {"layer": "relu2"},
    "rise": {"masks": 30},
    "score-cam": {"layer": "relu2", "weights": "raw"},
    "ss-cam": {"layer": "relu2", "weights": "raw", "samples": 2},
}


def test_rounding_is_shown_by_no_method_where_nothing_in_a_picture_matters(small):
    subject = small(tiny.vgg)
    with torch.no_grad():
        subject.plain.fc.weight.zero_()  # of the plain copy, which is asked here
    for name, params in COMPARE.items():
        method = registry()[name](score="logit", **params)
        for m in method.explain(
            Unsteady(subject.plain, subject.facts), tiny_input(), Targets(subject.facts, [1, 3])
        ).maps:
            assert m.array.min() == m.array.max(), name


class Blank(PlainProbe):
    """A probe of a network that answers the picture itself, and every other one alike, up to rounding."""

    def scores(self, rows, *, sketch=None):
        noise = torch.randn(rows.count, 1, generator=torch.Generator().manual_seed(0))
        found = 1 + ROUNDING / 20 * noise.expand(-1, self.facts.outputs)
        return torch.cat([found[:1] + 1, found[1:]])


def test_masks_that_all_score_the_same_tell_nothing(small):
    subject = small(tiny.classifier)
    method, probe = registry()["rise"](masks=30, score="logit"), Blank(subject.plain, subject.facts)
    (one,) = method.explain(probe, tiny_input(), Targets(subject.facts, [1])).maps
    assert one.array.min() == one.array.max()

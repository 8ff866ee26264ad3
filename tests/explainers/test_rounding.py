import torch

from service.contract import Targets
from service.explainers.base import registry
from service.explainers.rounding import ROUNDING, steady, varies
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

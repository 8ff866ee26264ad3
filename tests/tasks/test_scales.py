"""Logits and probabilities are had from each other, and stay finite where a network is certain."""

import pytest
import torch

from service.tasks.scales import exclusive, independent

Z = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4


@pytest.mark.parametrize("dim", [1, 0])
def test_exclusive_classes(dim) -> None:
    p = Z.softmax(dim)
    for given, scale in ((Z, "logits"), (p, "probabilities"), (p.log(), "log-probabilities")):
        torch.testing.assert_close(exclusive(given, scale, "probability", dim), p)
        logits = exclusive(given, scale, "logit", dim)
        torch.testing.assert_close(logits.softmax(dim), p)


def test_independent_classes() -> None:
    p = Z.sigmoid()
    for given, scale in ((Z, "logits"), (p, "probabilities"), (p.log(), "log-probabilities")):
        torch.testing.assert_close(independent(given, scale, "probability"), p)
        torch.testing.assert_close(independent(given, scale, "logit"), Z)


def test_certainty_is_finite() -> None:
    p = torch.tensor([0.0, 1.0])
    for found in (exclusive(p, "probabilities", "logit"), independent(p, "probabilities", "logit")):
        assert torch.isfinite(found).all()
        assert found[0] < found[1]

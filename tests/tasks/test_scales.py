"""Logits and probabilities are had from each other, and stay finite where a network is certain."""

import pytest
import torch

from service.tasks.scales import exclusive, independent, odds

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


@pytest.mark.parametrize("dim", [1, 0])
def test_odds_are_those_of_the_probability(dim) -> None:
    p = Z.softmax(dim).select(dim, 2)
    torch.testing.assert_close(odds(Z, 2, dim), (p / (1 - p)).log())


def test_odds_do_not_flatten_where_a_network_is_certain() -> None:
    logits = torch.tensor([[60.0, 1.0, 0.0], [90.0, 1.0, 0.0]])
    assert logits.softmax(1)[:, 0].tolist() == [1, 1]
    torch.testing.assert_close(odds(logits, 0).diff(), torch.tensor([30.0]))
    assert odds(torch.tensor([[3.0]]), 0).tolist() == [3.0]  # alone, it is its own logit

"""What was done to numbers is told by the numbers, and what is no rounding of them is none."""

import pytest
import torch

from service.engine.network.endings.rounding import near, rounded

P = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).mul(2).softmax(1)


@pytest.mark.parametrize(
    ("answer", "how"),
    [
        (P.clone(), ""),
        (torch.round(P * 1000) / 1000, "steps of 0.001"),
        (torch.floor(P * 100) / 100, "steps of 0.01"),
        (torch.round(P * 255) / 255, "steps of 0.00392"),
        (torch.round(P * 128) / 128, "steps of 0.00781"),
        (P.half().float(), "fewer digits"),
        (P.bfloat16().float(), "fewer digits"),
        (P.clamp(0.02, 0.95), "between 0.02 and 0.95"),
        ((torch.round(P * 1000) / 1000).clamp(0.02, 0.95), "steps of 0.001"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_was_done_is_told(answer, how) -> None:
    found = rounded(P, answer)
    assert found is not None
    assert found.known
    assert how in found.how
    assert (how == "") == (found.how == "")
    assert found.off == pytest.approx(float((P - answer).abs().max()), abs=1e-6)


def test_what_only_follows_is_not_known() -> None:
    found = rounded(P, P**1.02)
    assert found is not None
    assert not found.known


@pytest.mark.parametrize(
    "answer",
    [
        P.roll(1, 1),
        P.roll(1, 0),
        1 - P,
        P * 2,
        P.sqrt(),
        torch.full_like(P, 0.2),
        torch.full_like(P, float("nan")),
        P[:4],
    ],
    ids=["classes", "pictures", "complement", "twice", "root", "constant", "nan", "shape"],
)
def test_what_is_no_rounding_is_none(answer) -> None:
    assert rounded(P, answer) is None


def test_one_number_is_near_or_not() -> None:
    assert near(torch.tensor([[0.3]]), torch.tensor([0.34]))
    assert not near(torch.tensor([[0.3]]), torch.tensor([0.36]))
    assert not near(torch.tensor([[0.3]]), torch.tensor([0.3, 0.3]))
    assert not near(torch.tensor([[0.3]]), torch.tensor([float("nan")]))

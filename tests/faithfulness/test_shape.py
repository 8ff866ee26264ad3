import pytest
import torch

from service.faithfulness.shape import SHIFTS, localisation, moved, shifts, sparsity


def test_gini_is_half_the_mean_difference_over_the_mean() -> None:
    values = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
    a = values.abs().flatten().tolist()
    slow = sum(abs(x - y) for x in a for y in a) / (2 * len(a) ** 2 * (sum(a) / len(a)))
    assert sparsity(values) == pytest.approx(slow, abs=1e-6)
    assert sparsity(torch.ones(9, 9)) == pytest.approx(0, abs=1e-12)
    one = torch.zeros(10, 10)
    one[3, 3] = -2
    assert sparsity(one) == pytest.approx(0.99)
    with pytest.raises(ValueError, match="zero everywhere"):
        sparsity(torch.zeros(3, 3))


def test_localisation_is_worked_out() -> None:
    values = torch.zeros(10, 20)
    values[2, 3], values[2, 4], values[8, 15], values[0, 0] = 4.0, 2.0, 4.0, -9.0
    found = localisation(values, (2, 1, 6, 5))  # 4 x 4 pixels of 200
    assert (found.pointing, found.energy, found.area) == pytest.approx((0.5, 0.6, 0.08))
    assert localisation(values, (-3, -3, 30, 30)).energy == 1


@pytest.mark.parametrize(
    ("values", "box", "said"),
    [(torch.ones(4, 4), (5, 5, 9, 9), "outside"), (torch.ones(4, 4), (-5, 0, -1, 4), "outside"),
     (-torch.ones(4, 4), (0, 0, 2, 2), "positive")],
)  # fmt: skip
def test_localisation_without_meaning_says_why(values, box, said) -> None:
    with pytest.raises(ValueError, match=said):
        localisation(values, box)


def test_shifts_are_small_and_seeded() -> None:
    image, std = torch.zeros(1, 3, 8, 8), (0.25, 0.5, 1.0)
    found = shifts(image, std)
    assert len(found) == SHIFTS == 8
    for one in found:
        largest = one.abs().amax((0, 2, 3)) * torch.tensor(std)
        assert bool((largest <= 0.02).all())
        assert bool((largest > 0.015).all())
    assert all(torch.equal(a, b) for a, b in zip(found, shifts(image, std), strict=True))


def test_what_moves_is_measured_by_its_length() -> None:
    before = torch.tensor([[3.0, 4.0]])
    assert moved(before, [before, before + torch.tensor([[0.0, 1.0]]), before * 1.1]) == pytest.approx(0.2)
    assert moved(before, [before]) == 0
    assert moved(torch.zeros(1, 2), [before]) is None

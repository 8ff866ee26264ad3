import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from service.faithfulness.likeness import spearman, ssim, standing


def _maps(seed: int, size: tuple[int, int] = (20, 24)) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    a = torch.randn(size, generator=random)
    return a, a + torch.randn(size, generator=random)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_scipys(ties) -> None:
    a, b = _maps(0)
    if ties:
        a, b = a.round(), (b * 2).round()
    assert spearman(a, b) == pytest.approx(spearmanr(a.flatten(), b.flatten()).statistic, abs=1e-9)
    assert spearman(a, -a) == pytest.approx(-1)


def test_ssim_is_scikit_images() -> None:
    """Of maps divided by the root of their mean square; scikit-image leaves squares that stick out, out."""
    a, b = (m.double() / m.double().square().mean().sqrt() for m in _maps(1))
    reach = float(max(a.max(), b.max()) - min(a.min(), b.min()))
    expected = structural_similarity(a.numpy(), b.numpy(), win_size=7, data_range=reach)
    assert ssim(*_maps(1)) == pytest.approx(expected, abs=1e-9)
    assert ssim(a, a * 3) == pytest.approx(1)


def test_small_maps_are_one_square() -> None:
    a, b = _maps(2, (4, 5))
    assert -1 <= ssim(a, b) <= 1
    assert np.isfinite(ssim(a[:1], b[:1]))


@pytest.mark.parametrize("of", [spearman, ssim])
def test_a_flat_map_is_like_nothing(of) -> None:
    a, _ = _maps(3)
    assert of(a, torch.ones_like(a)) is None
    assert of(torch.zeros_like(a), a) is None


def test_a_maps_standing_is_ranked_once_for_all_its_pairs() -> None:
    a, b = _maps(4)
    x, y = standing(a.round()), standing(b)
    assert x is not None
    assert y is not None
    assert float(x @ y) == spearman(a.round(), b)
    assert (float(x.sum()), float(x.norm())) == pytest.approx((0, 1), abs=1e-9)
    assert standing(torch.ones(3, 4)) is None

import numpy as np
import pytest
import torch
from torch import Tensor

from service.explainers.cam.components import SMALL, first_component, leading


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def by_svd(a: Tensor, *, centre: bool) -> tuple[Tensor, float]:
    """Return u_1 s_1 (h, w) by a singular value decomposition in double, of unknown sign, and its share of energy."""
    x = a.double().flatten(1).T.numpy()
    x = x - x.mean(0) if centre else x
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    return torch.from_numpy(u[:, 0] * s[0]).view(a.shape[1:]).float(), float(s[0] ** 2 / (s**2).sum())


def up_to_sign(found: Tensor, expected: Tensor) -> Tensor:
    return expected if float((found * expected).sum()) > 0 else -expected


def test_one_position_is_its_own_mean():
    found = first_component(seeded(8, 1, 1) + 0.5, centre=True)
    assert found.projected.eq(0).all()
    assert found.share == 0


SHAPES = [(3, 5, 7), (64, 4, 4), (16, 4, 4), (1, 6, 6), (8, 1, 5), (200, 13, 13), (150, 12, 14)]


@pytest.mark.parametrize(
    ("shape", "centre"), [*((shape, centre) for shape in SHAPES for centre in (True, False)), ((8, 1, 1), False)]
)
def test_it_is_that_of_the_singular_value_decomposition(shape, centre):
    a = seeded(*shape) + 0.5
    found = first_component(a, centre=centre)
    expected, share = by_svd(a, centre=centre)
    torch.testing.assert_close(found.projected, up_to_sign(found.projected, expected), rtol=1e-5, atol=1e-6)
    assert found.share == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize("second", [0.0, 0.5, 0.99, 1 - 1e-9])
def test_the_leading_pair_is_found_however_near_the_next_one_is(second, monkeypatch):
    n, whole = SMALL + 72, []
    q = torch.linalg.qr(seeded(n, n).double()).Q
    spectrum = torch.linspace(0.4, 0, n, dtype=torch.float64) * second
    spectrum[:2] = torch.tensor([1.0, second])
    decompose = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: whole.append(len(a) == n) or decompose(a))
    value, v = leading(7 * (q * spectrum) @ q.T)
    assert float(value) == pytest.approx(7, rel=1e-12)
    assert float(v.norm()) == pytest.approx(1, rel=1e-12)
    turned = 1 - second if second > 0.999 else 1  # of two that are all but equal any mixture will do
    assert float((v @ q[:, 2:]).norm()) <= 1e-8
    assert abs(float(v @ q[:, 0])) >= 1 - 1e-12 or turned < 1
    assert any(whole) == (second > 0.999)


@pytest.mark.parametrize("centre", [True, False])
def test_it_is_large_where_the_features_are_strong_whatever_their_sign(centre):
    """Turning all channels over turns singular vectors over, but not what is strong."""
    a = 0.1 * seeded(6, 5, 5)
    a[:, 1:3, 1:3] += torch.tensor([3.0, -2, 1, 2, -1, 1])[:, None, None]
    one, other = first_component(a, centre=centre), first_component(-a, centre=centre)
    torch.testing.assert_close(one.projected, other.projected)
    assert one.projected.argmax() in (6, 7, 11, 12)
    assert one.share > 0.8


def test_where_all_positions_are_as_strong_its_largest_value_is_positive():
    """Rank one, one direction, no centring: the energy says nothing."""
    a = torch.ones(3, 2, 2)
    found = first_component(a, centre=False)
    torch.testing.assert_close(found.projected, torch.full((2, 2), 3**0.5))
    assert found.share == pytest.approx(1)


def test_maps_of_nothing_have_no_component():
    for centre in (True, False):
        found = first_component(torch.zeros(4, 3, 3), centre=centre)
        assert found.projected.eq(0).all()
        assert found.share == 0

"""ROAD against the dense system of equations, and what it says of an additive network."""

import pytest
import torch
from torch import Tensor

from service.faithfulness.ordering import ranks
from service.faithfulness.road import SHARES, imputed, road
from tests.faithfulness.conftest import SIZE, Additive, Watched, weights


def _solved(image: Tensor, gone: Tensor) -> Tensor:
    """Fill pixels in by the system's matrix, an equation a missing pixel."""
    h, w = gone.shape
    missing = [(int(y), int(x)) for y, x in gone.nonzero()]
    number = {place: i for i, place in enumerate(missing)}
    a = torch.zeros(len(missing), len(missing), dtype=torch.float64)
    b = torch.zeros(len(missing), image.shape[1], dtype=torch.float64)
    for i, (y, x) in enumerate(missing):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                weight = {0: 0.0, 1: 1 / 6, 2: 1 / 12}[abs(dy) + abs(dx)]
                if not weight or not (0 <= y + dy < h and 0 <= x + dx < w):
                    continue
                a[i, i] += weight
                if (y + dy, x + dx) in number:
                    a[i, number[y + dy, x + dx]] -= weight
                else:
                    b[i] += weight * image[0, :, y + dy, x + dx].double()
    filled = image[0].double().clone()
    for (y, x), values in zip(missing, torch.linalg.solve(a, b), strict=True):
        filled[:, y, x] = values
    return filled


def test_missing_pixels_solve_the_system(image) -> None:
    random = torch.Generator().manual_seed(0)
    gone = torch.stack([torch.rand(SIZE, SIZE, generator=random) < share for share in (0.1, 0.5, 0.9)])
    found = imputed(image, gone, noise=0.0)
    for row, mask in zip(found, gone, strict=True):
        expected = _solved(image, mask)
        assert float((row.double() - expected).abs().max()) < 0.02 * float(expected.std())


def test_known_pixels_stay_and_noise_is_seeded(image) -> None:
    gone = torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) < 0.4
    found = imputed(image, gone)
    kept = ~gone[0].expand(3, -1, -1)
    assert torch.equal(found[0][kept], image[0][kept])
    assert torch.equal(found, imputed(image, gone))
    noise = found - imputed(image, gone, noise=0.0)
    assert float(noise[0][gone[0].expand(3, -1, -1)].std()) == pytest.approx(0.01, rel=0.3)


def test_road_is_half_the_difference_of_both_ends() -> None:
    """Where a pixel is as light as it counts, the lightest are those that nothing can take the place of."""
    image = weights()[None].expand(1, 3, -1, -1)
    network, probe = Additive(weights()), Watched(Additive(weights()))
    orders = [ranks(weights()[0]), ranks(-weights()[0])]
    best, worst = road(probe, image, orders, ("picture",))
    expected = 0.0
    for share in SHARES:
        count = round(SIZE * SIZE * share)
        most, least = orders[0] < count, orders[0] >= SIZE * SIZE - count
        rows = [imputed(image, mask[None], noise=0.0) for mask in (least, most)]
        expected += float(network(rows[0]) - network(rows[1])) / 2 / len(SHARES)
    assert float(best) == pytest.approx(expected, rel=0.02)
    assert float(best) > 0 > float(worst)
    assert probe.rows == [10, 10]

"""Maps that know nothing of a network: what any map has to be held against."""

from functools import lru_cache

import torch
from torch import Tensor

from service.faithfulness.ordering import enlarged, ranks

RANDOMS = 8
_CELLS = 7  # a side, as of a usual layer's maps: white noise would be too easy to beat
_BELL = 0.5  # its deviation, as a share of half a side


def random_maps(size: tuple[int, int], seed: int = 0) -> list[Tensor]:
    """Return eight maps (H, W) of uniform noise as smooth as a CAM."""
    random = torch.Generator().manual_seed(seed)
    return [enlarged(torch.rand(_CELLS, _CELLS, generator=random), size) for _ in range(RANDOMS)]


def bell(size: tuple[int, int]) -> Tensor:
    """Return a bell in the middle of the picture, (H, W): photographers put things there."""
    y, x = (torch.linspace(-1, 1, side, dtype=torch.float64) for side in size)
    return torch.exp(-(y[:, None] ** 2 + x**2) / (2 * _BELL**2))


@lru_cache(maxsize=8)
def control_orders(size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Return each pixel's rank (H, W) by the random maps, and by the bell as the last one.

    They depend on nothing but the size and are kept: nobody may write to them.
    """
    return tuple(ranks(one) for one in (*random_maps(size), bell(size)))

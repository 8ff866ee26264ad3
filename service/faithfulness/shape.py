"""What a map is like by itself: how sparse it is, how much lies in a box, how far it moves with the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.contract import Box

SHIFTS = 8
SHIFT = 0.02  # of the range of values, the largest change of any of them


@dataclass(frozen=True)
class Localisation:
    """How much of a map lies in a box."""

    pointing: float  # share of the largest values that lie in it
    energy: float  # share of the positive values' sum
    area: float  # the box's share of the picture


def sparsity(values: Tensor) -> float:
    """Return the Gini index of the absolute values: 0 where all are equal, near 1 where one has everything.

    Chalasani et al. 2020, section 5.1.

    Raises:
        ValueError: all of them are 0, and nothing is shared out.
    """
    ordered = values.detach().abs().flatten().double().sort().values
    n, total = len(ordered), float(ordered.sum())
    if not total:
        raise ValueError("the map is zero everywhere")
    k = torch.arange(1, n + 1, dtype=torch.float64, device=ordered.device)
    return float(((2 * k - n - 1) * ordered).sum()) / (n * total)


def localisation(values: Tensor, box: Box) -> Localisation:
    """Return how much of a map (H, W) at the picture's size lies in a box of its pixels.

    Pointing game (Zhang et al. 2016): whether the largest value does; several that are equal share it. Energy-based
    pointing game (Wang et al. 2020, section 4.3): the share of the positive values, to be held against the box's area.

    Raises:
        ValueError: the box is empty where the network looks, or nothing of the map is positive.
    """
    x0, y0, x1, y1 = box
    inside = torch.zeros_like(values, dtype=torch.bool)
    inside[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    if not bool(inside.any()):
        raise ValueError("the box lies outside the part of the picture that the model sees")
    positive = values.clamp(min=0)
    if not bool(positive.any()):
        raise ValueError("no value of the map is positive")
    largest = values == values.max()
    return Localisation(
        float((largest & inside).sum() / largest.sum()),
        float(positive[inside].sum() / positive.sum()),
        float(inside.double().mean()),
    )


def shifts(image: Tensor, std: Sequence[float], seed: int = 0) -> list[Tensor]:
    """Return eight pictures near one (1, C, H, W): each value moves by up to 0.02 of the range of pictures.

    Args:
        image: the picture, as the network's input.
        std: by which each channel of pictures in 0..1 was divided.
        seed: of what is drawn.
    """
    random = torch.Generator().manual_seed(seed)
    reach = SHIFT / torch.tensor(std).view(1, -1, 1, 1)
    drawn = [(2 * torch.rand(image.shape, generator=random) - 1) * reach for _ in range(SHIFTS)]
    return [image + noise.to(image) for noise in drawn]


def moved(before: Tensor, after: Sequence[Tensor]) -> float | None:
    """Return the largest |e' - e| / |e| of maps e' after a change; None where there was nothing (Yeh et al. 2019)."""
    size = float(before.double().norm())
    return max(float((one.double() - before.double()).norm()) for one in after) / size if size else None

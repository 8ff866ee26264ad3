"""Pictures that stand for no picture at all: a colour, or what a strong blur leaves."""

import torch
from torch import Tensor

from service.contract import Facts

GREYS = {"black": 0.0, "white": 1.0, "grey": 0.5}
BLUR = 20 / 224  # deviation of the blur that stands for no picture, as a share of the picture's shorter side


def baseline(facts: Facts, image: Tensor, name: str) -> Tensor:
    """Return a picture without what a picture shows, (1, C, H, W).

    Args:
        facts: of the network.
        image: the picture as the network's input, (1, C, H, W).
        name: `mean` (the model's mean colour), `black`, `white`, `grey`, `blur`, or a colour `#rrggbb`.
    """
    if name == "blur":
        return blurred(image, BLUR * min(image.shape[2:]))
    if name == "mean":
        return torch.zeros_like(image)
    rgb = [GREYS[name]] * 3 if name in GREYS else [int(name[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return facts.colour(rgb).to(image).expand_as(image)


def blurred(image: Tensor, deviation: float) -> Tensor:
    """Return pictures (N, C, H, W) blurred by a Gaussian of a deviation in pixels; outside, their edges go on.

    As it is separable, it is a matrix of H x H and one of W x W: any deviation, at any size, takes the same time.
    """
    rows, columns = (_matrix(side, deviation).to(image) for side in image.shape[2:])
    return rows @ image @ columns.T


def _matrix(side: int, deviation: float) -> Tensor:
    """Return the blur of one axis as a matrix (side, side) whose rows add up to 1: at each place, where from."""
    if deviation <= 0:
        return torch.eye(side, dtype=torch.float64)
    reach = int(4 * deviation + 0.5)  # beyond four deviations lie 6e-5 of a Gaussian
    steps = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (steps.double() / deviation).square())  # in which no deviation rounds to zero
    sources = (torch.arange(side)[:, None] + steps).clamp(0, side - 1)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, sources, (weights / weights.sum()).expand(side, -1))

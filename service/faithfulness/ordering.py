"""The order that a map gives to a picture's pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from service.contract import Map


def heat(found: Map) -> Tensor:
    """Return one number a place, (h, w): colours are added up by their absolute values.

    Raises:
        ValueError: with the reason why a map gives no order to pixels.
    """
    if found.target is None:
        raise ValueError("the map has no target: nothing says to which score its pixels should matter")
    if found.kind in ("grid", "rgb"):
        raise ValueError(f"a map of kind {found.kind!r} gives no order to the picture's pixels")
    array = found.array.detach().float()
    if not bool(array.isfinite().all()):
        raise ValueError("the map holds values that are infinite or not a number, which order no pixels")
    values = array.abs().sum(0) if found.kind == "picture" else array
    if flat(values):
        raise ValueError("the map is flat: all its values are equal, so that it orders no pixels")
    return values


def flat(values: Tensor) -> bool:
    """Whether all values are equal."""
    return values.numel() == 0 or bool(values.min() == values.max())


def enlarged(values: Tensor, size: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """Return heat (h, w) at a picture's size (H, W), in double."""
    if values.shape == size:
        return values.double()
    if interpolation == "nearest":
        return F.interpolate(values[None, None].double(), size, mode="nearest-exact")[0, 0]
    return F.interpolate(values[None, None].double(), size, mode="bilinear", align_corners=False)[0, 0]


def ranks(values: Tensor, seed: int = 0) -> Tensor:
    """Return the rank of each pixel (H, W) of a map at the picture's size: 0 is the most important one.

    Equal values come in a seeded random order, the same for all maps: that in which they lie would favour a corner.
    """
    line = values.flatten().cpu()
    shuffled = torch.randperm(len(line), generator=torch.Generator().manual_seed(seed))
    order = shuffled[line[shuffled].argsort(descending=True, stable=True)]
    found = torch.empty_like(order)
    found[order] = torch.arange(len(order))
    return found.view(values.shape).int()

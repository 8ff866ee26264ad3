"""ROAD: remove pixels so that what takes their place tells nothing of where they were. Rong et al. 2022."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from service.contract import Probe, Rows, fingerprint

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
_NOISE = 0.01  # its deviation, so that what was imputed cannot be told by its smoothness
_TOLERANCE = 1e-3  # of the residual, relative to the right side
_MOST_STEPS = 2000
_WEIGHTS = ((1 / 12, 1 / 6, 1 / 12), (1 / 6, 0.0, 1 / 6), (1 / 12, 1 / 6, 1 / 12))


def road(probe: Probe, image: Tensor, orders: Sequence[Tensor], key: tuple[object, ...]) -> Tensor:
    """Return (score without the least important pixels - score without the most important ones) / 2, (M, T).

    The mean over shares of pixels that go; in the evidence's unit. Ten rows an order of pixels.

    Args:
        probe: whose table is evidence for T targets.
        image: (1, C, H, W).
        orders: each pixel's rank (H, W), 0 the most important.
        key: all that determines the picture.
    """
    found = []
    for place in orders:
        pixels = place.numel()
        most = [place < round(pixels * share) for share in SHARES]
        least = [place >= pixels - round(pixels * share) for share in SHARES]
        rows = imputed(image, torch.stack([*most, *least]).to(image.device))
        f = probe.scores(Rows.of(rows, ("road", key, fingerprint(place)))).double()
        found.append((f[len(SHARES) :] - f[: len(SHARES)]).mean(0).cpu() / 2)
    return torch.stack(found)


def imputed(image: Tensor, gone: Tensor, noise: float = _NOISE, seed: int = 0) -> Tensor:
    """Return a picture (1, C, H, W) with pixels gone (N, H, W) filled in, (N, C, H, W): the paper's equation 6.

    Each missing pixel is the weighted mean of its neighbours, missing ones included, plus noise: one linear system of
    equations a row, solved by conjugate gradients from a coarse-to-fine guess, all rows at once.
    """
    kernel = torch.tensor(_WEIGHTS).to(image).view(1, 1, 3, 3)
    missing = gone[:, None].to(image)  # (N, 1, H, W)
    around = F.conv2d(torch.ones_like(missing), kernel, padding=1)  # less than one at the edges

    def neighbours(v: Tensor) -> Tensor:
        return F.conv2d(v.flatten(0, 1)[:, None], kernel, padding=1)[:, 0].view(v.shape)

    def apply(v: Tensor) -> Tensor:
        return (around * v - neighbours(v)) * missing

    known = image * (1 - missing)
    right = neighbours(known) * missing
    x = _guess(known, 1 - missing) * missing
    r = right - apply(x)
    p, size = r.clone(), _squares(r)
    goal = _squares(right) * _TOLERANCE**2
    for _ in range(_MOST_STEPS):
        if bool((size <= goal).all()):
            break
        ap = apply(p)
        step = size / (p * ap).sum((1, 2, 3), keepdim=True).clamp(min=1e-30)
        x, r = x + step * p, r - step * ap
        new = _squares(r)
        p, size = r + new / size.clamp(min=1e-30) * p, new
    drawn = noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(image)
    return known + (x + drawn) * missing


def _squares(v: Tensor) -> Tensor:
    return v.square().sum((1, 2, 3), keepdim=True)


def _guess(known: Tensor, there: Tensor) -> Tensor:
    """Fill the holes of known values (N, C, H, W), there (N, 1, H, W), from coarser and coarser means."""
    if min(known.shape[2:]) < 2 or bool((there > 0).all()):
        return known
    weight = F.avg_pool2d(there, 2, ceil_mode=True).clamp(max=1)
    mean = F.avg_pool2d(known, 2, ceil_mode=True) / weight.clamp(min=1e-6)
    coarse = _guess(mean * (weight > 0), (weight > 0).to(weight))
    return torch.where(there > 0, known, F.interpolate(coarse, known.shape[2:], mode="bilinear", align_corners=False))

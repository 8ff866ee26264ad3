"""What is rounding and nothing else: scores that are one score but for it, and sums whose terms cancel but for it.

A map sum_k w_k A_k whose largest value is a share c of its terms' magnitudes, added up, is off by as much as e / c of
itself where each weight is off by e of itself. Two things keep e small. Terms are added up in float64, about the mean
weight: what all weights have in common says nothing where features cancel over the channels, as behind a layer norm.
And weights are made of scores in float64, so that e is what the network's own arithmetic leaves, and no step after it.
"""

import torch
from torch import Tensor

ROUNDING = 1e-6  # of the largest score: what one picture's score differs by from batch to batch; of a sum's terms


def varies(f: Tensor) -> Tensor:
    """Return which targets' scores (n, T) differ by more than rounding: of others nothing can be said, (T,)."""
    return f.amax(0) - f.amin(0) > ROUNDING * f.abs().amax(0)


def steady(f: Tensor) -> Tensor:
    """Return scores (n, T), those of a target that differ by rounding alone all equal to the first one.

    Rounding is no evidence, and a map of nothing else would be drawn like any other: in full colours.
    """
    return torch.where(varies(f), f, f[:1])


def weighted(w: Tensor, a: Tensor, off: Tensor | None = None) -> Tensor:
    """Return the maps sum_k w_k A_k of weights (T, K) and maps (K, h, w), or a target's own (T, K, h, w): (T, h, w).

    They are the mean weight times sum_k A_k, and sum_k (w_k - mean w) A_k. Where the features of all channels cancel,
    as they do behind a layer norm, the first part is rounding, and zero. A map is zero throughout where its largest
    value is no more than what weights that are `off` by as much (T, K) may add up to; default: by `ROUNDING` of
    themselves.
    """
    w, features = w.double(), a.double()
    equation = "tk,khw->thw" if a.ndim == 3 else "tk,tkhw->thw"
    rounding = torch.einsum(equation, ROUNDING * w.abs() if off is None else off.double(), features.abs())
    mean = w.mean(1, keepdim=True)  # (T, 1)
    common = added(features if a.ndim == 4 else features[None])  # (1 or T, h, w)
    found = mean[:, :, None] * common + torch.einsum(equation, w - mean, features)
    return _but_rounding(found, rounding).to(a.dtype)


def added(parts: Tensor) -> Tensor:
    """Return the sums over k of terms (T, K, h, w), which are zero where they cancel but for rounding: (T, h, w)."""
    # One target at a time: what is added up in float64 takes a copy.
    sums = torch.stack([one.sum(0, dtype=torch.float64) for one in parts])
    terms = torch.stack([one.abs().sum(0, dtype=torch.float64) for one in parts])
    return _but_rounding(sums, ROUNDING * terms).to(parts.dtype)


def _but_rounding(sums: Tensor, rounding: Tensor) -> Tensor:
    """Return sums (T, h, w), each map zero where its largest value is no more than that of its rounding (T, h, w)."""
    told = sums.abs().amax((1, 2)) > rounding.amax((1, 2))
    return sums * told[:, None, None]

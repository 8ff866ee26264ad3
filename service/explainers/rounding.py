"""What is rounding and nothing else: scores that are one score but for it, and sums whose terms cancel but for it."""

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


def weighted(w: Tensor, a: Tensor) -> Tensor:
    """Return the maps sum_k w_k A_k of weights (T, K) and maps (K, h, w), or a target's own (T, K, h, w): (T, h, w).

    Where the terms cancel, as features behind a layer norm do under equal weights, what is left of them is rounding: a
    map whose largest value is less than that is zero throughout.
    """
    dtype = torch.promote_types(w.dtype, a.dtype)
    w, a = w.to(dtype), a.to(dtype)
    equation = "tk,khw->thw" if a.ndim == 3 else "tk,tkhw->thw"
    return _but_rounding(torch.einsum(equation, w, a), torch.einsum(equation, w.abs(), a.abs()))


def added(parts: Tensor) -> Tensor:
    """Return the sums over k of terms (T, K, h, w), which are zero where they cancel but for rounding: (T, h, w)."""
    return _but_rounding(parts.sum(1), parts.abs().sum(1))


def _but_rounding(sums: Tensor, terms: Tensor) -> Tensor:
    """Return sums (T, h, w), each map zero where its largest value is nothing to that of its terms' magnitudes."""
    told = sums.abs().amax((1, 2)) > ROUNDING * terms.amax((1, 2))
    return sums * told[:, None, None]

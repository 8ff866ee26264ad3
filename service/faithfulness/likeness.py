"""How alike two maps are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from service.faithfulness.ordering import flat

_WINDOW = 7  # pixels a side, of the squares that structural similarity looks at
_K1, _K2 = 0.01, 0.03  # Wang et al. 2004, section III.B


def spearman(a: Tensor, b: Tensor) -> float | None:
    """Return Spearman's rank correlation of two maps of one shape, ties sharing their mean rank; None: one is flat."""
    x, y = standing(a), standing(b)
    return product(x, y) if x is not None and y is not None else None


def product(x: Tensor, y: Tensor) -> float:
    """Return the rank correlation of two maps by their standings: -1..1, whatever is rounded."""
    return max(-1.0, min(1.0, float(x @ y)))


def standing(values: Tensor) -> Tensor | None:
    """Return a map's ranks in one line, centred and of length 1, ties sharing their mean rank; None: it is flat.

    The product of two of them is Spearman's rank correlation.
    """
    if flat(values):
        return None
    _, index, counts = torch.unique(values.flatten().double(), return_inverse=True, return_counts=True)
    rank: Tensor = (counts.cumsum(0) - (counts - 1) / 2).double()[index]
    centred = rank - rank.mean()
    found: Tensor = centred / centred.norm()
    return found


def ssim(a: Tensor, b: Tensor) -> float | None:
    """Return the structural similarity of two maps (h, w): Wang et al. 2004, equation 13; None: one is flat.

    Each is divided by the root of its mean square before, and keeps its sign: maps have no unit, and what speaks
    against a class is not what speaks for it. Squares of 7 x 7 values, with unbiased covariances.
    """
    if flat(a) or flat(b):
        return None
    x, y = (m.double()[None, None] / m.double().square().mean().sqrt() for m in (a, b))
    side = min(_WINDOW, *a.shape)
    unbiased = side**2 / max(side**2 - 1, 1)
    reach = torch.maximum(x.max(), y.max()) - torch.minimum(x.min(), y.min())

    def local(m: Tensor) -> Tensor:
        return F.avg_pool2d(m, side, 1)

    mx, my = local(x), local(y)
    vx, vy = (unbiased * (local(m * m) - mean**2) for m, mean in ((x, mx), (y, my)))
    vxy = unbiased * (local(x * y) - mx * my)
    c1, c2 = (_K1 * reach) ** 2, (_K2 * reach) ** 2
    return float((((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())

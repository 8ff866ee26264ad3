"""Tables without negative numbers as products of smaller ones: non-negative matrix factorisation (Lee & Seung 1999)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from service.contract import still_wanted

_ROUNDS = 500
_SETTLED = 1e-9  # a round that lowers the squared error by less, relative to the table's own, is the last one


@dataclass(frozen=True)
class Factors:
    """X ~ W H, all >= 0, in double."""

    w: Tensor  # (C, k)
    h: Tensor  # (k, n)
    error: float  # |X - W H| / |X|, Frobenius
    rounds: int


def factorised(x: Tensor, parts: int) -> Factors:
    """Factorise a table (C, n) >= 0 into at most so many parts.

    It starts from the singular vectors (NNDSVD, Boutsidis & Gallopoulos 2008), so that nothing is drawn at random, and
    goes on by hierarchical alternating least squares (HALS, Cichocki & Phan 2009): each column of W, and each row of H,
    is set to its best in turn, until a round changes next to nothing.
    """
    x = x.double()
    w, h = _start(x, min(parts, *x.shape))
    size = float(x.square().sum())
    if size == 0:
        return Factors(w, h, 0.0, 0)
    lower, before, rounds = True, float("inf"), 0
    while lower and rounds < _ROUNDS:
        still_wanted()
        rounds += 1
        h = _improved(h.T, w, x.T @ w).T
        cross = x @ h.T  # (C, k)
        w = _improved(w, h.T, cross)
        squared = size - 2 * float((cross * w).sum()) + float(((w.T @ w) * (h @ h.T)).sum())
        lower, before = before - squared > _SETTLED * size, squared
    return Factors(w, h, float((x - w @ h).norm()) / size**0.5, rounds)


def _improved(mine: Tensor, other: Tensor, cross: Tensor) -> Tensor:
    """Return one factor (m, k) with each column at its best for the other one (n, k).

    `cross` (m, k) is the table, turned so that it is m x n, times the other one.
    """
    gram, mine = other.T @ other, mine.clone()
    for j, own in enumerate(gram.diagonal().tolist()):
        if own > 0:
            mine[:, j].add_((cross[:, j] - mine @ gram[:, j]) / own).clamp_(min=0)
    return mine


def _start(x: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Return W (C, k) and H (k, n) >= 0: of each pair of singular vectors, the stronger one of its two halves."""
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    w, h = x.new_zeros(x.shape[0], parts), x.new_zeros(parts, x.shape[1])
    for k in range(parts):
        halves = [((sign * u[:, k]).clamp(min=0), (sign * vh[k]).clamp(min=0)) for sign in (1, -1)]
        left, right = max(halves, key=lambda half: float(half[0].norm() * half[1].norm()))
        size = left.norm() * right.norm()
        if float(size) > 0:
            w[:, k] = left / left.norm() * (s[k] * size).sqrt()
            h[k] = right / right.norm() * (s[k] * size).sqrt()
    return w, h

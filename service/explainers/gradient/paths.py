"""Sums of gradients along paths from one picture to another: what integrated gradients and their kin share.

Sundararajan et al. 2017, section 3: along a path from x' to x, the sum over its pieces of (change of the picture) times
(gradient there) adds up to f(x) - f(x') as the pieces get small. How nearly it does is said in every answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from service.contract import INPUT, Probe, Rows, Score, Targets, Trace
from service.explainers.baselines import baseline
from service.explainers.gradient.inputs import AT_INPUT, outputs_of, scored

Quadrature = Literal["gauss-legendre", "midpoint"]


@dataclass(frozen=True)
class Attributions:
    """What each value of a picture contributes to a score, and what all of them together should add up to."""

    values: Tensor  # (T, C, H, W), in double
    change: Tensor  # (T,): f(x) - f(x'), the mean over several x'
    targets: Targets  # fixed
    outputs: Tensor  # (K,) of the picture

    def completeness(self) -> dict[str, list[float]]:
        """Return f(x) - f(x') a target, and by how much the attributions add up to more."""
        missing = self.values.sum((1, 2, 3)) - self.change
        return {"change": self.change.tolist(), "completeness_residual": missing.tolist()}


@cache
def nodes(rule: Quadrature, steps: int) -> tuple[tuple[float, float], ...]:
    """Return (position, weight) of a quadrature on 0..1; the weights add up to 1.

    Gauss-Legendre is exact for polynomials of degree 2 * steps - 1, the midpoint rule has equal weights.
    """
    if rule == "midpoint":
        return tuple(((i + 0.5) / steps, 1 / steps) for i in range(steps))
    x, w = np.polynomial.legendre.leggauss(steps)
    return tuple(zip(((1 + x) / 2).tolist(), (w / 2).tolist(), strict=True))


def ends(probe: Probe, image: Tensor, starts: Tensor, targets: Targets, score: Score) -> tuple[Tensor, Tensor, Targets]:
    """Run a picture (1, C, H, W) and the beginnings of its paths (B, C, H, W).

    Returns:
        The score's change (B, T) from each beginning to the picture, the picture's outputs (K,), and the targets, fixed
        on these.
    """
    outputs = outputs_of(probe, Rows.of(torch.cat([image, starts])))
    fixed = targets.fixed(outputs)
    f = fixed.scores(outputs, score).double()
    return f[:1] - f[1:], outputs[0], fixed


def path_sum(probe: Probe, rows: Rows, changes: Callable[[int, int], Tensor], targets: Targets, score: Score) -> Tensor:
    """Return the sum over rows of the change there times the score's gradient, (T, C, H, W) in double.

    Args:
        probe: the network.
        rows: points on the path, or on several.
        changes: (i, j) -> what the gradients of rows i to j are multiplied by, (j - i, C, H, W).
        targets: fixed ones.
        score: what is differentiated.
    """

    def total(piece: Trace) -> Sequence[Tensor]:
        g = piece.gradients[INPUT]  # (T, n, C, H, W)
        return [(g * changes(piece.first, piece.first + g.shape[1])).sum(1, dtype=torch.float64)]

    return probe.trace(rows, AT_INPUT, scored(targets, score), total=total).totals[0]


def integrated(
    probe: Probe, image: Tensor, targets: Targets, score: Score, baselines: str, rule: Quadrature, steps: int
) -> Attributions:
    """Integrate along the straight lines from baselines to a picture (1, C, H, W).

    (x - x') sum_i w_i grad f(x' + u_i (x - x')), with a quadrature's positions u and weights w; the mean over several
    baselines x', whose names are joined by `+`.
    """
    starts = torch.cat([baseline(probe.facts, image, name) for name in baselines.split("+")])  # (B, C, H, W)
    change, outputs, targets = ends(probe, image, starts, targets, score)
    u, w = torch.tensor(nodes(rule, steps)).repeat(len(starts), 1).to(image).view(-1, 2, 1, 1, 1).unbind(1)
    of = torch.arange(len(starts), device=image.device).repeat_interleave(steps)

    def points(i: int, j: int) -> Tensor:
        start = starts[of[i:j]]
        return start + u[i:j] * (image - start)

    def changes(i: int, j: int) -> Tensor:
        return w[i:j] * (image - starts[of[i:j]])

    values = path_sum(probe, Rows(len(of), points), changes, targets, score) / len(starts)
    return Attributions(values, change.mean(0), targets, outputs)

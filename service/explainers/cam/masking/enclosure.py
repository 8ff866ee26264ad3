"""Where a Score-CAM map has to lie while some masks have not been tried: no estimate, a bound.

The map is M = ReLU(sum_k e_k A_k) / sum_k e_k with e_k = exp(f_k), as the softmax does not see what is taken off all
f_k alike (Wang et al. 2020, equations 4 and 5). A score f_k of a mask that was not tried lies between the least and the
largest value that a probability can have, so that e_k does, and the sum of e_k A_k at each pixel. The divisor is one
number for all pixels. It is left out of what is bounded, as no heat map shows it, and stated as a range of its own:
where few pixels of a map are active it is what is known worst by far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.contract import Target

ROUNDING = 5e-5  # how far outputs in float32 may be off, relative to the largest one: five times what copies may
_SUMS = 2**-20  # what float32 adds to a map, relative to its maximum: sums of thousands of terms that are not in order
_SHARP = 16  # how much more than others the pixel counts that is known worst, in the order of masks
_STEPS = 128  # in which it is found, at least: so many masks at a time are chosen by the same widths


def telling_order(sums: Tensor, first: Tensor) -> Tensor:
    """Return the order (M,) in which masks tell most of a map, given what each weighs (M, P): activations added up.

    Next is what narrows the enclosure most where it is widest: as little is known of a pixel as activations are left
    that may be weighed differently. It does not depend on what the network answers.

    Args:
        sums: for each mask the sum of the maps (P values) whose mask it is.
        first: number of the mask that is tried in any case.
    """
    left = sums.abs()
    left[first] = 0
    taken = torch.zeros(len(sums), dtype=torch.bool, device=sums.device)
    taken[first] = True
    order = [first.view(1)]
    at_once = max(1, len(sums) // _STEPS)
    for start in range(1, len(sums), at_once):
        width = left.sum(0)
        wide = (width / width.max().clamp(min=torch.finfo(width.dtype).tiny)) ** _SHARP
        gain = (left @ wide).masked_fill(taken, -1)
        chosen = gain.topk(min(at_once, len(sums) - start)).indices
        taken[chosen] = True
        left[chosen] = 0
        order.append(chosen)
    return torch.cat(order)


@dataclass(frozen=True)
class Enclosure:
    """Maps of T targets between two ends, up to a factor each, and how far the factor is known."""

    low: Tensor  # (T, P) >= 0 in float64
    high: Tensor  # (T, P)
    divisor: Tensor  # (T, 2): the least and the largest

    @property
    def maps(self) -> Tensor:
        """The maps (T, P) in the middle of what is possible: none is nearer to all of it."""
        return (self.low + self.high) / 2 / self.divisor.mean(1, keepdim=True)

    @property
    def errors(self) -> list[float]:
        """Half the width where it is largest, as a share of the least maximum that the map has, for each target.

        Infinite where the map may be zero everywhere; 0 where it is.
        """
        widths = ((self.high - self.low) / 2).amax(1).tolist()
        peaks = self.low.amax(1).tolist()
        return [
            0.0 if not width else width / peak + _SUMS if peak else math.inf
            for width, peak in zip(widths, peaks, strict=True)
        ]

    @property
    def scale(self) -> list[list[float]]:
        """The least and the largest factor between the maps and the exact ones, for each target."""
        middle = self.divisor.mean(1)
        return [[float(m / high), float(m / low)] for m, (low, high) in zip(middle, self.divisor, strict=True)]


class Certificate:
    """What is known of Score-CAM's maps from the scores of the first masks."""

    def __init__(self, sums: Tensor, counts: Tensor, targets: Sequence[Target]) -> None:
        """Take what is known without a forward.

        Args:
            sums: (M, P), the sum of the maps whose mask it is.
            counts: (M,), how many they are.
            targets: T of them, whose scores are probabilities: each of a class is in 0..1.
        """
        self._sums, self._counts = sums.double(), counts.double()
        weights = [[weight for _, weight in target.terms] or [1.0] for target in targets]

        def each(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=sums.device)  # (T,)

        self.least = each([sum(min(w, 0.0) for w in own) for own in weights])
        self.most = each([sum(max(w, 0.0) for w in own) for own in weights])
        self._spread = each([sum(map(abs, own)) for own in weights])

    def rounding(self, *outputs: Tensor) -> Tensor:
        """Return how far scores (T,) may be off, given outputs (n, K) in float32.

        A probability moves by half of what logits move by, at most: its derivatives are no larger than 1/4 each way.
        """
        return self._spread * ROUNDING * max(float(rows.abs().max()) for rows in outputs if len(rows))

    def holds(self, f: Tensor, rounding: Tensor) -> bool:
        """Whether scores (n, T) are what probabilities can be; else nothing is known of others."""
        return bool(((f >= self.least - rounding) & (f <= self.most + rounding)).all())

    def enclosure(self, f: Tensor, rounding: Tensor) -> Enclosure:
        """Return where the maps lie, given the scores (n, T) of the first n masks and how far they may be off (T,)."""
        low, high = (e.exp() for e in self._scores(f, rounding))  # (M, T)
        rising, falling = self._sums.clamp(min=0), self._sums.clamp(max=0)
        return Enclosure(
            (low.T @ rising + high.T @ falling).relu(),
            (high.T @ rising + low.T @ falling).relu(),
            torch.stack([self._counts @ low, self._counts @ high], 1),
        )

    def needed(self, f: Tensor, rounding: Tensor, bound: float) -> int:
        """Return after how many masks the maps are within a bound for certain, whatever those answer that are left.

        It may be fewer: what is yet unknown counts as the least that it can be in the maximum.
        """
        low, high = (e.exp() for e in self._scores(f, rounding))
        peaks = self.enclosure(f, rounding).low.amax(1)
        found, nothing = len(f), torch.zeros_like(self._sums[:1])
        later = torch.arange(len(self._sums), device=self._sums.device)[:, None] >= len(f)
        for t, peak in enumerate(peaks.tolist()):
            # (M + 1, P): half the width when so many are known, of whom those to come are off by rounding alone
            untried = (high - low)[:, t, None]
            tried = untried.masked_fill(later, 2 * math.exp(float(self.most[t])) * float(rounding[t]))
            done = torch.cat([nothing, (tried * self._sums.abs()).cumsum(0)])
            left = torch.cat([(untried * self._sums.abs()).flip(0).cumsum(0).flip(0), nothing])
            widths = ((done + left) / 2).amax(1)
            fits = (widths <= (bound - _SUMS) * peak).nonzero()
            found = max(found, int(fits[0]) if len(fits) else len(self._sums))
        return found

    def _scores(self, f: Tensor, rounding: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the largest score (M, T) of each mask."""
        low, high = (end.repeat(len(self._sums), 1) for end in (self.least, self.most))
        f = f.double()
        low[: len(f)] = torch.maximum(f - rounding, self.least).minimum(self.most)
        high[: len(f)] = torch.minimum(f + rounding, self.most).maximum(self.least)
        return low, high

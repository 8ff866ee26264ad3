"""What the numbers of an answer tell: whether they are probabilities, logarithms of these, or no scores at all."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from service.contract import Scale
from service.errors import CatalogError
from service.tasks.numbers.grid import step_of

Ending = Literal["softmax", "sigmoid", "log_softmax", "logsigmoid", "linear", "ranks"]
"""The last thing a network does: a function of its logits, the linear map that makes them, or an order by size."""

TOLERANCE = 1e-4  # of a sum of probabilities, and of a length
_DEVIATIONS = 4
_ROUNDED = 0.05  # of a sum of probabilities at a pixel, which a floor or a resizing may have moved
_APART = 50  # times as much as by chance, that numbers differ by from picture to picture where their sums do not


@dataclass(frozen=True)
class Numbers:
    """What a network answers for some pictures, and what is known of how it comes to it."""

    raw: Tensor  # (N, K), (N, K, H, W), or (N, D, 6) of boxes
    boxes: bool = False
    ending: Ending | None = None  # None: something else, or not to be seen
    # Whether answers stay between 0 and 1 whatever the network is given: small logits may happen to lie there.
    bounded: Callable[[], bool] = lambda: True
    size: tuple[int, int] | None = None  # (H, W) of the input, which boxes lie in; None: it is not known
    rounding: float = 0.0  # of the format that the network answers in: how far a sum may be off, relative to it
    # (down, right) -> boxes in the first and the last picture, moved by so many pixels; None: they are of one form.
    moved: Callable[[tuple[int, int]], Tensor] | None = None

    exclusive: bool = False  # whether a softmax makes them, and not all of its classes are among them
    times: float = 1.0  # what probabilities are seen to be multiplied by
    becomes: str | None = None  # "softmax" or "sigmoid", where the forward makes that of them beside
    differentiable: bool = True  # whether they have a gradient at all

    @property
    def tolerance(self) -> float:
        """How far from one sums and lengths may be."""
        short = (torch.float16, torch.bfloat16) if self.raw.ndim == 2 else ()
        formats = [kind for kind in short if torch.equal(self.raw.to(kind).to(self.raw), self.raw)]
        return max([TOLERANCE, self.rounding, *(torch.finfo(kind).eps for kind in formats[:1])])

    @property
    def told(self) -> str:
        """Between which numbers they lie, for people."""
        return f"they lie between {float(self.raw.min()):.3g} and {float(self.raw.max()):.3g}"

    def inside(self) -> bool:
        """Whether all lie between 0 and 1, and not all at one place, where only the numbers tell what they are."""
        if self.ending not in ("softmax", "sigmoid") and self.raw.amax() == self.raw.amin():
            return False
        return bool((self.raw >= -TOLERANCE).all() and (self.raw <= 1 + TOLERANCE).all())

    def add_up(self) -> bool:
        """Whether each picture's are the probabilities of classes that exclude each other."""
        return self.raw.shape[1] > 1 and self.inside() and near_one(self.raw.sum(1), self.tolerance)

    def floored(self) -> bool:
        """Whether each picture's are such probabilities, but for those that a floor has raised, as clamp(min=...) does.

        The floor is the least number and met several times by each picture; what is above it adds up to at most 1,
        and with the floor's share to at least 1.
        """
        low = float(self.raw.amin())
        if self.raw.ndim != 2 or not 0 < low * self.raw.shape[1] < 1 or not self.inside():
            return False
        at_floor = self.raw == low
        above = self.raw.masked_fill(at_floor, 0).sum(1)
        several = bool((at_floor.sum(1) > 1).all())
        return several and bool((above <= 1 + TOLERANCE).all() and (self.raw.sum(1) >= 1 - TOLERANCE).all())

    def stepped(self) -> bool:
        """Whether each picture's are such probabilities, rounded to some step.

        The sum of K numbers that are rounded is off by a deviation of sqrt(K / 12) steps.
        """
        if self.raw.ndim != 2 or self.raw.shape[1] < 2 or self.ending is not None or not self.inside():
            return False
        step = step_of(self.raw)
        off = math.inf if step is None else _DEVIATIONS * step * math.sqrt(self.raw.shape[1] / 12)
        return off < _ROUNDED and near_one(self.raw.sum(1), off + TOLERANCE)

    def fixed_sum(self) -> float | None:
        """Return what probabilities add up to for each picture, if it is the same for all and not one; else None.

        Those of independent classes have another sum for each picture. Several softmaxes side by side have not, nor has
        what is left of one, as 1 - p.
        """
        if self.raw.ndim != 2 or self.raw.shape[1] < 2 or len(self.raw) < 2 or not self.inside():
            return None
        sums, least = self.raw.sum(1), self.tolerance * max(1.0, float(self.raw.sum(1).mean()))
        off = float((sums - sums.mean()).abs().max())
        differ = float((self.raw - self.raw.mean(0)).abs().sum(1).max()) / math.sqrt(self.raw.shape[1])
        fixed = off <= least and differ > _APART * max(off, torch.finfo(self.raw.dtype).eps)
        return float(sums.mean()) if fixed and not near_one(sums, self.tolerance) else None

    def exponentials_add_up(self) -> bool:
        """Whether each picture's are the logarithms of such probabilities."""
        if self.raw.shape[1] < 2 or bool((self.raw > TOLERANCE).any()):
            return False
        powers = self.raw.exp()
        # What rounding does to each logarithm it does to its power times its size.
        return near_one(powers.sum(1), self.tolerance * max(1.0, float(-(self.raw * powers).sum(1).min())))

    def percentages(self) -> bool:
        """Whether each picture's are probabilities times one hundred."""
        if self.times == 100:
            return True
        if self.raw.shape[1] < 2 or self.ending == "linear" or not (self.raw >= -TOLERANCE).all():
            return False
        return bool(self.raw.max() > 2) and bool((self.raw.sum(1) - 100).abs().max() < max(0.5, 100 * self.tolerance))

    def whole(self) -> bool:
        """Whether they are whole numbers that nothing can be followed through, and not just 0 and 1."""
        return not (self.differentiable or self.decisions()) and bool((self.raw == self.raw.round()).all())

    def decisions(self) -> bool:
        """Whether they are 0 and 1, and nothing else."""
        return bool(((self.raw == 0) | (self.raw == 1)).all()) and bool(self.raw.amax() != self.raw.amin())

    def apart(self) -> bool:
        """Whether the probabilities of maps are those of classes of which each is there or not at a pixel."""
        return self.raw.shape[1] > 1 and not near_one(self.raw.sum(1), _ROUNDED)


def check_scores(numbers: Numbers, scale: Scale | None) -> None:
    """Raise `CatalogError` where a table's numbers are no scores, or are scores in a form that is not read."""
    raw, classes = numbers.raw, numbers.raw.shape[1]
    if numbers.ending == "ranks":
        raise CatalogError(
            "its outputs are in the order of their size (topk, sort, max): a column is a rank, and another class for "
            "each picture; let it return the scores of all classes, in their own order"
        )
    if numbers.ending == "softmax" and bool((raw == 1).all()):
        over = "one output" if classes == 1 else "the pictures of a batch, and not over classes"
        instead = "a sigmoid, or two outputs" if classes == 1 else "dim=1"
        raise CatalogError(f"its softmax is over {over}: it is 1 for every picture; use {instead}")
    if numbers.whole():
        raise CatalogError(
            "its outputs are whole numbers that no gradient passes by, as numbers of classes or counts are: no scores; "
            "let it return its scores, as before argmax or a rounding, or set task = 'regression'"
        )
    if scale is None and numbers.percentages():
        raise CatalogError(
            "its outputs are percentages, of 0 to 100; let it return shares, as y / 100, or set task = 'regression' "
            "where they are measured"
        )
    if scale is None and classes > 1 and bool((raw >= 0).all()) and replace(numbers, raw=-raw).exponentials_add_up():
        raise CatalogError(
            "its outputs are negative logarithms of probabilities, as losses are: the likeliest class has the least; "
            "let it return -y"
        )


def near_one(sums: Tensor, tolerance: float) -> bool:
    """Whether all sums are one, give or take."""
    return bool((sums - 1).abs().max() < tolerance)

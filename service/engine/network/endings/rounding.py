"""Whether numbers are others that were rounded: to a grid, to fewer digits, or cut off below and above."""

from dataclasses import dataclass

import torch
from torch import Tensor

from service.tasks.numbers.grid import step_of

_FAR = 0.05  # of probabilities: what is further off is no rounding of them
_SAME = 1e-6  # noise of float32
_DIGITS = 2**-8  # relative, of bfloat16, twice its half step


@dataclass(frozen=True)
class Rounded:
    """What was done to numbers."""

    how: str  # for people; empty where nothing was
    off: float  # how far the furthest is from what it was
    known: bool = True  # whether it is a rounding; else they only follow the others' order, near to them


def near(value: Tensor, answer: Tensor) -> bool:
    """Whether no number of an answer is further from a value in 0..1 than a rounding may move it."""
    return value.numel() == answer.numel() and bool((value.flatten() - answer.flatten()).abs().max() <= _FAR)


def rounded(value: Tensor, answer: Tensor) -> Rounded | None:
    """Return what was done to numbers in 0..1 that an answer is made of, one by one; None where it is not.

    Whatever rounds keeps the order of all numbers there are, and moves none of them far.

    Args:
        value: (N, K).
        answer: (N, K).
    """
    v, a = value.detach().double().flatten(), answer.detach().double().flatten()
    if v.shape != a.shape or not (torch.isfinite(v).all() and torch.isfinite(a).all()):
        return None
    far = float((a - v).abs().max())
    if far <= _SAME:
        return Rounded("", 0.0)
    if far > _FAR or float(a.max() - a.min()) <= _SAME or float(a[v.argsort()].diff().min()) < -_SAME:
        return None
    low, high = a.min(), a.max()
    cut = ((a == low) & (v <= low)) | ((a == high) & (v >= high))
    off = (a - v).abs()[~cut]
    if not off.numel() or float(off.max()) <= _SAME:
        return Rounded(f"kept between {float(low):.3g} and {float(high):.3g}", far)
    step = step_of(a)
    if step is not None and float(off.max()) <= step * 1.001 + _SAME:
        return Rounded(f"rounded to steps of {step:.3g}", far)
    if bool((off <= _DIGITS * v.abs()[~cut] + 1e-7).all()):
        return Rounded("rounded to fewer digits", far)
    return Rounded("changed a little", far, known=False)

"""Scores of changed pictures that are one score but for rounding: what methods that compare scores may not read."""

import torch
from torch import Tensor

ROUNDING = 1e-6  # of the largest score: what one picture's score differs by from batch to batch


def varies(f: Tensor) -> Tensor:
    """Return which targets' scores (n, T) differ by more than rounding: of others nothing can be said, (T,)."""
    return f.amax(0) - f.amin(0) > ROUNDING * f.abs().amax(0)


def steady(f: Tensor) -> Tensor:
    """Return scores (n, T), those of a target that differ by rounding alone all equal to the first one.

    Rounding is no evidence, and a map of nothing else would be drawn like any other: in full colours.
    """
    return torch.where(varies(f), f, f[:1])

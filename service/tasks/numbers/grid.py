"""The step of a grid that numbers were rounded to."""

import torch
from torch import Tensor

_FEWEST = 2e-6  # below which float32 has no steps
_PARTS = 12  # of the least difference that is met, which may be several steps


def step_of(numbers: Tensor) -> float | None:
    """Return the largest step that all numbers, of any shape and about 1 at most, are multiples of; None of none."""
    values = numbers.double().flatten()
    steps = torch.unique(values).diff()
    steps = steps[steps > _FEWEST]
    for part in range(1, _PARTS + 1) if steps.numel() else ():
        step = float(steps.min()) / part
        multiples = values / step
        if step > _FEWEST and bool(((multiples - multiples.round()).abs() <= 0.02 + 1e-6 * multiples.abs()).all()):
            return step
    return None

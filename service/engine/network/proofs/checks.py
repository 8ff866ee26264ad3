"""What a network has to keep to, looked at by numbers when it is loaded: each is a line for people."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from service.contract import Check
from service.errors import CatalogError
from service.models.networks import holding

REPEATS = 1e-4  # largest difference, relative to the largest output, of two answers to one picture
ALONE = 1e-3  # the same of a picture alone and among others, whose kernels add up in another order


class Refused(CatalogError):
    """A network that would answer falsely; `checks` says all that was looked at."""

    def __init__(self, message: str, checks: tuple[Check, ...]) -> None:
        super().__init__(message)
        self.checks = checks


@dataclass
class Checks:
    """The checks of one network, and what they cost."""

    name: str
    lines: list[Check] = field(default_factory=list)
    rows: int = 0
    backwards: int = 0

    def count(self, rows: int) -> None:
        """Count rows that were run."""
        self.rows += rows

    def passed(self, check: str, found: str) -> None:
        """Add a check that is passed."""
        self.lines.append(Check(check, "passed", found))

    def warn(self, check: str, found: str, remedy: str | None = None) -> None:
        """Add a check that a user should know of."""
        self.lines.append(Check(check, "warning", found, remedy))

    def refused(self, check: str, found: str, remedy: str) -> Refused:
        """Add a check that ends the loading; return the error to raise."""
        self.lines.append(Check(check, "refused", found, remedy))
        return Refused(f"model {self.name!r}: {found}; {remedy}", tuple(self.lines))

    def finished(self) -> tuple[Check, ...]:
        """Return all lines, and what they cost."""
        cost = Check("cost", "passed", f"{self.rows} rows and {self.backwards} backwards at load")
        return (*self.lines, cost)


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest value."""
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    return float((a - b).abs().max() / torch.maximum(a.abs().max(), b.abs().max()).clamp(min=1e-12))


def state(module: nn.Module) -> dict[str, tuple[float, float]]:
    """Return a sum and a sum of squares of each parameter and buffer: equal as long as none is written to."""
    found = {}
    for name, value in holding.tensors(module).items():
        if not value.is_quantized:
            held = value.detach()
            held = torch.view_as_real(held.resolve_conj()) if held.is_complex() else held
            if held.is_floating_point() and not torch.isfinite(held.sum(dtype=torch.float64)):
                held = held.nan_to_num(nan=0.5, posinf=2.5, neginf=-4.5)  # no sum of theirs would equal itself
            found[name] = (
                float(held.sum(dtype=torch.float64)),
                float(torch.linalg.vector_norm(held.flatten().float())),
            )
    return found


def written(before: Mapping[str, tuple[float, float]], module: nn.Module) -> list[str]:
    """Return the names of parameters and buffers that are no longer what they were."""
    after = state(module)
    return [name for name, sums in before.items() if after.get(name) != sums]


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]

"""One line of the table: a ratio, by the clock and by the processor, and what it has to be."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.measure import number


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line."""

    folder: Path  # of what is kept for this run
    rounds: int
    quick: bool = False
    extras: Path | None = None  # packages of the runtime extras, where they are not installed
    channels: int | None = None  # of Score-CAM's layer, at most; None: the default layer
    other: Path | None = None  # a work tree of the version that this one is held against


@dataclass
class Line:
    """A figure: what it came to in each round, as a ratio, and the aim."""

    name: str
    ours: str
    against: str
    ratios: Sequence[float]  # by the clock, a round each
    by_processor: Sequence[float] = ()  # the same of processor time
    aim: float | None = None
    unit: str = "x"
    least: bool = True  # whether the aim is to be reached, or not to be exceeded
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The median over rounds."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None without one."""
        if self.aim is None:
            return None
        return self.ratio >= self.aim if self.least else self.ratio <= self.aim

    def __str__(self) -> str:
        spread = f" ({number(min(self.ratios))} to {number(max(self.ratios))})" if len(self.ratios) > 1 else ""
        processor = f"{number(statistics.median(self.by_processor))} {self.unit}" if self.by_processor else "-"
        aim = "reported" if self.aim is None else f"{'>=' if self.least else '<='} {number(self.aim)} {self.unit}"
        met = {None: "", True: "yes", False: "**no**"}[self.met]
        cells = self.name, self.ours, self.against, f"{number(self.ratio)} {self.unit}{spread}", processor, aim, met
        return f"| {' | '.join(cells)} |"


HEAD = """| Figure | Ours | Against | Ratio, median (rounds) | By processor time | Aim | Met |
| --- | --- | --- | --- | --- | --- | --- |"""

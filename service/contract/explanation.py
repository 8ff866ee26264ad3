"""What a method answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from service.contract.meaning import Target

Kind = Literal["positive", "signed", "grid", "picture", "rgb", "regions"]
Interpolation = Literal["bilinear", "nearest"]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Completeness:
    """How nearly a map adds up to what its method promises."""

    promises: str  # what that is, such as "f(x) - f(x')"
    change: float  # its value
    residual: float  # by how much the map adds up to more


@dataclass(frozen=True)
class Map:
    """One picture's worth of result, unnormalised float32.

    kind `positive` and `signed`: (h, w) heat; `grid`: (k, h, w), one small picture per channel;
    `picture`: (3, h, w) signed, drawn with grey as zero; `rgb`: (3, h, w) in 0..1; `regions`: (h, w) heat with one
    value a region, which edges divide, so that it is not smoothed (`nearest`).
    """

    name: str
    array: Tensor
    kind: Kind = "positive"
    target: Target | None = None
    layer: str | None = None
    channel: int | None = None
    channels: tuple[int, ...] | None = None  # the channels of a grid, in order
    patch: Box | None = None  # the part of the input that the map explains
    interpolation: Interpolation = "bilinear"  # how to enlarge it
    completeness: Completeness | None = None  # of a method that promises it


@dataclass(frozen=True)
class Explanation:
    """The result of a method: its maps, its own details, and the clean picture's outputs where it met them."""

    maps: Sequence[Map]
    details: Mapping[str, Any] = field(default_factory=dict)
    outputs: Tensor | None = None  # (K,)
    answer: Tensor | None = None  # what the network itself says of the picture, where that is no row of a table
    avoided: int = 0  # rows whose outputs were known without a forward
    exact: bool = True  # all of the definition was computed, nothing estimated
    # How far a pixel may be from the exact map's, as a share of its maximum and up to one factor for the whole map;
    # None: nothing bounds it.
    error_bound: float | None = None

    def adding_up(self, promises: str, change: Sequence[float], residual: Sequence[float]) -> Explanation:
        """Return the same, each map with how nearly it adds up.

        Args:
            promises: to what.
            change: its value, a map.
            residual: by how much each map adds up to more.
        """
        told = [Completeness(promises, *both) for both in zip(change, residual, strict=True)]
        return replace(self, maps=[replace(m, completeness=c) for m, c in zip(self.maps, told, strict=True)])

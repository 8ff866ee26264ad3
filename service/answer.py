"""What is answered: values. Of the pictures only those are drawn and encoded that the asked format needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from service.client import wire
from service.contract import Map, Prediction
from service.errors import InvalidParameter
from service.images import Picture
from service.rendering import Heat, OutputOptions, drawing
from service.rendering.bounds import Together
from service.rendering.files import Draw, Encode, Pictures


@dataclass(frozen=True)
class Needs:
    """What a format takes of an answer.

    maps: how many, from the first one on; None: all.
    pictures: `asked`: alone and over the picture, as the request's output options say; `best`: one a map, for people;
        `none`.
    encode: makes a file of each; None where there are none.
    arrays: raw values: `asked`: as the request's output options say; `all`; `none`.
    first: the first of the maps, from 0 on.
    together: what the other answers to the same request take; None: there are none.
    """

    maps: int | None = None
    pictures: Pictures = "none"
    encode: Encode | None = None
    arrays: Literal["asked", "all", "none"] = "none"
    first: int = 0
    together: Together | None = None

    def of(self, maps: Sequence[Map]) -> Sequence[Map]:
        """Return those of an explanation's maps that are shown.

        Raises:
            InvalidParameter: there are not so many.
        """
        if self.first and self.first >= len(maps):
            there = "one map" if len(maps) == 1 else f"{len(maps)} maps"
            raise InvalidParameter.at("/query/map", f"the answer has {there}; ask for one of them, from 1 on")
        return maps[self.first : None if self.maps is None else self.first + self.maps]

    def takes_arrays(self, output: OutputOptions) -> bool:
        """Whether raw values are part of the answer."""
        return self.arrays == "all" or (self.arrays == "asked" and output.array != "none")


def size(maps: Sequence[Map], picture: Picture | None, output: OutputOptions, needs: Needs) -> tuple[int, int, int]:
    """Return the raw values, pictures and pixels of all pictures that an answer with these maps will have."""
    maps = needs.of(maps)
    values = sum(found.array.numel() for found in maps) if needs.takes_arrays(output) else 0
    drawn = [
        (
            _drawings(found, picture, output, needs),
            drawing.extent(found.kind, tuple(found.array.shape), picture, output),
        )
        for found in maps
    ]
    return values, sum(count for count, _ in drawn), sum(count * pixels for count, pixels in drawn)


def _drawings(found: Map, picture: Picture | None, output: OutputOptions, needs: Needs) -> int:
    """Return how many drawings are made of a map."""
    if needs.pictures == "asked":
        return output.heatmap + (output.overlay and picture is not None and found.kind not in ("grid", "rgb"))
    return int(needs.pictures == "best")


@dataclass(frozen=True)
class Shown:
    """One map, with the files of those drawings that were needed."""

    map: Map
    heat: Heat
    target: wire.TargetRef | None
    heatmap: bytes | None = None
    overlay: bytes | None = None
    faithfulness: wire.Faithfulness | None = None  # where it was asked for

    @property
    def picture(self) -> bytes:
        """The best drawing that there is: over the picture, else alone."""
        found = self.overlay if self.overlay is not None else self.heatmap
        if found is None:
            raise ValueError("no picture was needed, and none was drawn")
        return found


@dataclass(frozen=True)
class Answer:
    """The answer to an `Ask`: predictions, maps and what they took."""

    id: str
    model: wire.ModelRef
    predictions: tuple[Prediction, ...]
    image: wire.Geometry | None
    usage: wire.Usage
    output: OutputOptions = field(default_factory=OutputOptions)
    method: str | None = None  # None: predictions were all that was asked for
    params: Mapping[str, Any] = field(default_factory=dict)  # as used: defaults filled in
    maps: tuple[Shown, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    sanity: wire.Sanity | None = None  # what is known of the method on the model


def shown(found: Map, target: wire.TargetRef | None, output: OutputOptions, needs: Needs, draw: Draw) -> Shown:
    """Draw and encode of a map what a format needs.

    Args:
        found: the map.
        target: what it explains.
        output: how to draw it.
        needs: what is needed.
        draw: makes the files.

    Raises:
        InvalidParameter: a drawing is larger than the format can hold.
    """
    array = np.ascontiguousarray(found.array.detach().float().cpu().numpy())
    heat = Heat(array, found.kind, found.interpolation, found.patch)
    return Shown(found, heat, target, *draw(heat, output, needs.pictures, needs.encode))

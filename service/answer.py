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
from service.rendering.files import Draw, Encode, Pictures
from service.rendering.together import Together


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

    @property
    def less(self) -> str:
        """What else may be asked for where an answer is too large."""
        return ", or for fewer pictures in one request" if self.together is not None else ""

    def takes_arrays(self, output: OutputOptions) -> bool:
        """Whether raw values are part of the answer."""
        return self.arrays == "all" or (self.arrays == "asked" and output.array != "none")


@dataclass(frozen=True)
class Bounds:
    """The most that the answer to one request may have: raw values, pictures, and pixels of all pictures together."""

    values: int
    pixels: int
    pictures: int = 256

    def plan(self, values: int, needs: Needs) -> None:
        """Raise `InvalidParameter` where an answer may have so many raw values that they are too many."""
        self._check_values(needs.together.plan(values) if needs.together is not None else values, needs)

    def _check_values(self, values: int, needs: Needs) -> None:
        if values > self.values:
            raise InvalidParameter.at(
                "/output/array",
                f"the answer would have {values:,} raw values, and at most {self.values:,} are sent; ask for fewer "
                f"layers or channels, or for `array: none`{needs.less}",
            )

    def check(self, maps: Sequence[Map], picture: Picture | None, output: OutputOptions, needs: Needs) -> None:
        """Raise `InvalidParameter` where an answer with these maps would be too large; nothing is drawn for that."""
        maps = needs.of(maps)
        values = sum(found.array.numel() for found in maps) if needs.takes_arrays(output) else 0
        pictures = pixels = 0
        for found in maps:
            count = _drawings(found, picture, output, needs)
            pictures += count
            pixels += count * drawing.extent(found.kind, tuple(found.array.shape), picture, output)
        if needs.together is not None:
            values, pictures, pixels = needs.together.add(values, pictures, pixels)
        self._check_values(values, needs)
        if pictures > self.pictures or pixels > self.pixels:
            raise InvalidParameter.at(
                "/output",
                f"the answer would have {pictures:,} pictures of {pixels:,} pixels together, and at most "
                f"{self.pictures:,} of {self.pixels:,} are drawn; ask for `size: input`, for `heatmap` or `overlay` "
                f"alone, or for fewer targets or channels{needs.less}",
            )


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

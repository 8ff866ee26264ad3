"""Maps to colours to drawings."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import cmap
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from pydantic import field_validator

from service.client import wire
from service.client.wire import DIVERGING, SEQUENTIAL, Interpolation, Kind
from service.fair.wanted import still_wanted
from service.images import Picture

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Drawing = Image.Image
logging.getLogger("cmap").setLevel(logging.ERROR)  # that a name has several owners is no event for our log
_TILE = 2  # pixels between the small pictures of a grid


class OutputOptions(wire.OutputOptions):
    """What to return of each map, and how to draw it."""

    @field_validator("colormap")
    @classmethod
    def _exists(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                _colormap(name)
            except (ValueError, TypeError, KeyError):
                raise ValueError(
                    f"there is no colour map {name!r}; some are viridis, inferno, magma, turbo, RdBu_r, coolwarm"
                ) from None
        return name


def _colormap(name: str) -> cmap.Colormap:
    """Return a colour map by its name, in capitals or not.

    It is asked for by the one spelling that the catalogue has: of any other, the catalogue keeps a copy for ever.

    Raises:
        KeyError: there is none of that name.
    """
    base = name.removesuffix("_r")
    return cmap.Colormap(cmap.Colormap.catalog().resolve(base) + name[len(base) :])


@dataclass(frozen=True)
class Heat:
    """A map as numbers, with what its drawing has to know."""

    array: Floats
    kind: Kind
    interpolation: Interpolation = "bilinear"
    patch: tuple[int, int, int, int] | None = None
    # The map alone and over the picture are one drawing; nobody changes it.
    drawings: dict[tuple[int, int, str | None], Image.Image] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def low(self) -> float:
        """The least value."""
        return float(self.array.min())

    @cached_property
    def high(self) -> float:
        """The greatest value."""
        return float(self.array.max())

    @property
    def signed(self) -> bool:
        """Whether its colours are centred on zero: values of regions are where any lies below."""
        return self.kind == "signed" or (self.kind == "regions" and self.low < 0)

    @property
    def flat(self) -> bool:
        """Whether nothing was found to tell places apart: all values are equal; in a signed map all are zero.

        The zero of a signed map has a meaning. Where each square hidden costs the score the same, that was found.
        """
        signed = self.kind in ("signed", "picture")
        return self.array.size == 0 or (self.low == self.high and not (signed and self.high))

    @property
    def all_negative(self) -> bool:
        """Whether nothing is above zero although the map is not flat."""
        return not self.flat and self.high <= 0


def to_unit(values: Floats) -> Floats:
    """Scale values to 0..1 for a picture; equal ones become 0, never NaN."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def colours(values: Floats, *, signed: bool, colormap: str | None) -> Bytes:
    """Draw heat (h, w) as RGB (h, w, 3): signed values centred on zero, others from their minimum to their maximum.

    Where there are many values, the top 0.2 % share the last colour, so that one bright pixel does not darken the rest.
    """
    # Of all ways to look colours up in a table, this one is quickest: no index is out of it.
    drawn: Bytes = _table(signed, colormap).take(_levels(values, signed=signed), axis=0, mode="clip")
    return drawn


def _table(signed: bool, colormap: str | None) -> Bytes:
    return table(colormap or (DIVERGING if signed else SEQUENTIAL))


def _levels(values: Floats, *, signed: bool) -> Bytes:
    """Return which of the 256 colours each value has."""
    if signed:
        limit = float(_top(np.abs(values)))
        unit = values / (2 * limit) + 0.5 if limit > 0 else np.full_like(values, 0.5)
    else:
        unit = to_unit(np.minimum(values, _top(values)))
    levels: Bytes = np.clip(unit * 255 + 0.5, 0, 255).astype(np.uint8)
    return levels


@lru_cache(maxsize=64)
def table(colormap: str) -> Bytes:
    """Return the 256 colours (256, 3) of a colour map."""
    found = _colormap(colormap).lut(256)
    found = found[np.arange(256) * len(found) // 256]  # a map of a few distinct colours has no more than these
    colours: Bytes = np.rint(found[:, :3] * 255).astype(np.uint8)
    return colours


def _top(values: Floats) -> np.float32:
    high: np.float32 = values.max()
    if values.size < 4096:
        return high
    robust: np.float32 = np.percentile(values, 99.8).astype(np.float32)
    return robust if robust > values.min() else high


def _resize(values: Floats, width: int, height: int, interpolation: str) -> Floats:
    how = Image.Resampling.NEAREST if interpolation == "nearest" else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(values).resize((width, height), how))


def grid(maps: Floats, *, colormap: str | None, side: int) -> Image.Image:
    """Draw (k, h, w) as k small pictures, each scaled on its own, enlarged by whole pixels towards `side`."""
    columns, factor, width, height = _sheet(maps.shape, side)
    h, w = maps.shape[1:]
    tile_h, tile_w = h * factor + _TILE, w * factor + _TILE
    sheet = np.full((height, width, 3), 255, np.uint8)
    for i, values in enumerate(maps):
        drawn = colours(values, signed=False, colormap=colormap or "gray")
        y, x = i // columns * tile_h + _TILE, i % columns * tile_w + _TILE
        sheet[y : y + h * factor, x : x + w * factor] = drawn.repeat(factor, 0).repeat(factor, 1)
    return Image.fromarray(sheet)


def _sheet(shape: tuple[int, ...], side: int) -> tuple[int, int, int, int]:
    """Return the columns of a grid of shape (k, h, w), the enlargement of its pictures, and its width and height."""
    count, h, w = shape
    columns = math.ceil(math.sqrt(count))
    lines = math.ceil(count / columns)
    factor = max(1, side // (columns * max(h, w)))
    return columns, factor, columns * (w * factor + _TILE) + _TILE, lines * (h * factor + _TILE) + _TILE


def _side(picture: Picture | None) -> int:
    return max(picture.seen.size) * 2 if picture else 448


def extent(kind: Kind, shape: tuple[int, ...], picture: Picture | None, options: OutputOptions) -> int:
    """Return how many pixels a drawing of a map has, alone or over the picture; found without drawing it."""
    if kind == "grid":
        _, _, width, height = _sheet(shape, _side(picture))
        return width * height
    if kind == "rgb" or picture is None:
        return shape[-1] * shape[-2]
    width, height = picture.size if options.size == "original" else picture.seen.size
    return width * height


def _signed_picture(values: Floats) -> Bytes:
    """Draw (3, h, w) with zero as grey; the 99.5th percentile of the absolute values reaches black and white."""
    limit = float(np.percentile(np.abs(values), 99.5)) or float(np.abs(values).max()) or 1.0
    drawn: Bytes = np.clip(values.transpose(1, 2, 0) / limit * 127.5 + 127.5, 0, 255).astype(np.uint8)
    return drawn


def heatmap(heat: Heat, picture: Picture | None, options: OutputOptions) -> Image.Image:
    """Draw a map alone. At `size: original` it lies where the model saw it, transparent around.

    Returns it in RGB, RGBA, or in 256 colours (`P`) where a palette says all of it.
    """
    if heat.kind == "grid":
        return grid(heat.array, colormap=options.colormap, side=_side(picture))
    if heat.kind == "rgb":
        return Image.fromarray(np.rint(np.clip(heat.array, 0, 1).transpose(1, 2, 0) * 255).astype(np.uint8))
    if heat.kind == "picture":
        drawn = Image.fromarray(_signed_picture(heat.array))
        if picture is None:  # a kernel: a few pixels, shown large
            factor = max(1, 112 // max(drawn.size))
            return drawn.resize((drawn.width * factor, drawn.height * factor), Image.Resampling.NEAREST)
        return drawn if options.size == "input" else _place(drawn, picture)[0]
    if picture is None:
        raise ValueError("heat lies on a picture, and there is none")
    if options.size == "original":
        width, height = _box_size(picture)
        return _place(_drawn_heat(heat, width, height, options), picture)[0]
    return _drawn_heat(heat, *picture.seen.size, options)


def _drawn_heat(heat: Heat, width: int, height: int, options: OutputOptions) -> Image.Image:
    key = width, height, options.colormap
    if key not in heat.drawings:
        values = _resize(heat.array, width, height, heat.interpolation)
        drawn = Image.fromarray(_levels(values, signed=heat.signed))
        drawn.putpalette(_table(heat.signed, options.colormap).tobytes())
        heat.drawings[key] = drawn
    return heat.drawings[key]


def _box_size(picture: Picture) -> tuple[int, int]:
    x0, y0, x1, y1 = picture.box
    return max(1, round(x1) - round(x0)), max(1, round(y1) - round(y0))


def _place(drawn: Image.Image, picture: Picture) -> tuple[Image.Image, Image.Image]:
    """Put a drawing of what the model saw on a canvas of the original's size; return it in RGBA, and its mask."""
    drawn = drawn.convert("RGB").resize(_box_size(picture), Image.Resampling.BILINEAR)
    corner = round(picture.box[0]), round(picture.box[1])
    canvas = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    canvas.paste(drawn, corner)
    return canvas, canvas.getchannel("A")


def best(heat: Heat, picture: Picture | None, options: OutputOptions) -> tuple[Drawing | None, Drawing | None]:
    """Draw a map once, for people: alone, or over the picture where it can lie there.

    It lies there unless the options ask for the map alone.

    Returns:
        The map alone, and over the picture; one of them.
    """
    alone = options.heatmap and not options.overlay
    over = overlay(heat, picture, options) if picture is not None and not alone else None
    return (None, over) if over is not None else (heatmap(heat, picture, options), None)


def overlay(heat: Heat, picture: Picture, options: OutputOptions) -> Image.Image | None:
    """Draw a map over the picture; a projection is drawn beside the part of the picture that it explains.

    Returns None for kinds that do not lie on the picture.
    """
    if heat.kind in ("grid", "rgb"):
        return None
    if heat.kind == "picture":
        return _beside(heat, heat.patch, picture) if heat.patch else None
    if options.size == "input":
        drawn = _drawn_heat(heat, *picture.seen.size, options)
        return Image.blend(picture.seen, drawn.convert("RGB"), options.opacity)
    if picture.original is None:
        raise ValueError("a drawing on the original needs the original")
    canvas, mask = _place(_drawn_heat(heat, *_box_size(picture), options), picture)
    still_wanted()
    blended = Image.blend(picture.original, canvas.convert("RGB"), options.opacity)
    still_wanted()
    return Image.composite(blended, picture.original, mask)


def _beside(heat: Heat, patch_box: tuple[int, int, int, int], picture: Picture) -> Image.Image:
    """Draw the projection, cut to its patch, to the left of the same patch of the picture."""
    x0, y0, x1, y1 = patch_box
    projection = Image.fromarray(_signed_picture(np.ascontiguousarray(heat.array[:, y0:y1, x0:x1])))
    patch = picture.seen.crop(patch_box)
    height = max(patch.height, 112)
    width = max(1, round(patch.width * height / patch.height))
    sheet = Image.new("RGB", (2 * width + 2 * _TILE, height), "white")
    for i, part in enumerate((projection, patch)):
        sheet.paste(part.resize((width, height), Image.Resampling.NEAREST), (i * (width + 2 * _TILE), 0))
    return sheet


def fit(image: Image.Image, side: int) -> Image.Image:
    """Scale a drawing so that its longer side is `side`; small pixels stay squares."""
    image = image.convert("RGB") if image.mode == "P" else image  # between colours of a palette there is none
    scale = side / max(image.size)
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), how)


def contact_sheet(
    panels: Sequence[tuple[str, Image.Image]], *, side: int, gap: int, caption: int, columns: int
) -> Image.Image:
    """Lay drawings out in lines of `columns`, each within a square of `side` pixels under its caption."""
    lines = math.ceil(len(panels) / columns)
    sheet = Image.new("RGB", (columns * (side + gap) + gap, lines * (side + caption + gap) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(caption * 2 // 3)
    for i, (text, image) in enumerate(panels):
        x, y = gap + i % columns * (side + gap), gap + i // columns * (side + caption + gap)
        draw.text((x, y), text, fill="black", font=font)
        part = fit(image, side)
        sheet.paste(part, (x, y + caption))
    return sheet

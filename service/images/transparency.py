"""Pixels that are clear: where Pillow's modes do not say so, or not of the right ones."""

import io
import re
import struct
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.images.containers import png

Mask = npt.NDArray[np.bool_]
_FRAME = "heatlens frame"  # a key of `Image.info`: the part of the screen that a first frame fills
_COLOURS = "heatlens colours"  # another one: whether they have 16 bits
_DEEP = re.compile(r"(LA|RGB|RGBX|RGBA);16[BLN]")  # how these lie in a file; LA becomes RGBA
_DEPTH = 24  # where a PNG says how many bits its values have


def note(image: Image.Image) -> None:
    """Write down, before a picture is loaded, what is gone afterwards: a GIF's first frame, and colours of 16 bits."""
    tile: Any = _tiles(image)
    image.info[_COLOURS] = bool(tile) and all(_DEEP.fullmatch(_rawmode(one)) for one in tile)
    if image.format == "GIF" and tile and tuple(tile[0][1]) != (0, 0, *image.size):
        image.info[_FRAME] = tuple(tile[0][1])
    if image.format == "GIF" and image.mode == "L":
        image.palette = None  # it is of other frames: the first one has its own, of greys whose numbers they are


def on_white(image: Image.Image) -> Image.Image:
    """Return an RGBA picture laid over white, in RGB."""
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def cleared(image: Image.Image, data: bytes) -> Image.Image:
    """Return a picture in RGBA where some pixels are clear that it shows, else as it is.

    Around the first frame of a GIF there is nothing yet. The clear colour of a PNG of 16 bits is one of 2^48: what only
    rounds to it is seen. The clear grey of one of fewer than 8 bits is told in its low bits, on the scale of the file.

    Args:
        image: the picture, loaded.
        data: its file.
    """
    frame = image.info.pop(_FRAME, None)
    if frame is not None:
        x0, y0, x1, y1 = frame
        outside = np.ones((image.height, image.width), bool)
        outside[y0:y1, x0:x1] = False
        return without(image, outside)
    colour = image.info.get("transparency")
    if image.format == "PNG" and image.mode == "RGB" and data[_DEPTH] == 16 and isinstance(colour, tuple):
        del image.info["transparency"]
        return without(image, _is(data, colour))
    if image.format == "PNG" and image.mode in ("1", "L") and data[_DEPTH] < 8 and isinstance(colour, int):
        most = (1 << data[_DEPTH]) - 1
        (told,) = struct.unpack_from(">H", next(png.chunks(data, b"tRNS")))
        image.info["transparency"] = (told & most) * 255 // most
    return image


def grey(image: Image.Image) -> Mask | None:
    """Return where a grey picture of 16 bits is clear; None where it has no clear grey."""
    clear = image.info.get("transparency")
    if not image.mode.startswith("I") or not isinstance(clear, int):
        return None
    return np.asarray(np.asarray(image) == clear)


def without(image: Image.Image, clear: Mask) -> Image.Image:
    """Return a picture in RGBA with some pixels clear."""
    pixels = np.array(image.convert("RGBA"))
    np.copyto(pixels.view(np.uint32)[..., 0], 0, where=clear)  # a whole pixel at a time, which is twenty times as fast
    found = Image.fromarray(pixels)
    found.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return found


def deep_colours(image: Image.Image) -> bool:
    """Whether a picture that was noted is one of colours of 16 bits."""
    return bool(image.info.get(_COLOURS))


def values_of(data: bytes) -> npt.NDArray[np.uint16]:
    """Return the colours (H, W, 3) of a PNG or a TIFF of 16 bits, or (H, W) of grey, as they stand in its file."""
    high, low = (_bytes_of(data, first=first).astype(np.uint16) for first in (True, False))
    return np.asarray(high << 8 | low, np.uint16)


def _is(data: bytes, colour: tuple[int, ...]) -> Mask:
    """Return where a PNG of 16 bits has a colour, to the last bit."""
    high, low = (_bytes_of(data, first=first) for first in (True, False))
    clear = np.array(colour, np.uint16)
    return np.asarray(((high == clear >> 8) & (low == clear & 255)).all(-1))


def _tiles(image: Image.Image) -> list[Any]:
    """Return the parts that a file's picture is decoded by."""
    return list(getattr(image, "tile", ()))


def _rawmode(tile: Any) -> str:
    """Return how values lie in a part, such as `RGB;16B`, whose last letter is their order: B, L, or N for native."""
    return str(tile.args[0] if isinstance(tile.args, tuple | list) and tile.args else tile.args)


def _bytes_of(data: bytes, *, first: bool) -> npt.NDArray[np.uint8]:
    """Return the more or the less significant byte of each value (H, W, 3), or (H, W) of grey.

    Pillow keeps the first of two, which the rawmode says where it stands. Told that the order is the other one, it
    keeps the bytes that it drops otherwise. It knows one order only of grey with opacity, whose four bytes a pixel are
    therefore taken for four values.
    """
    with Image.open(io.BytesIO(data), formats=("PNG", "TIFF")) as image:
        tiles: Any = image
        is_grey = any(_rawmode(tile).startswith("LA") for tile in _tiles(image))
        tiles.tile = [_told(tile, "RGBA") if is_grey else _ordered(tile, first) for tile in _tiles(image)]
        image.load()
        found = np.asarray(image)
        return found[..., 0 if first else 1] if is_grey else found[..., :3]


def _ordered(tile: Any, first: bool) -> Any:
    mode = _rawmode(tile)
    own = mode[-1] if mode[-1] != "N" else "L" if sys.byteorder == "little" else "B"
    other = "L" if own == "B" else "B"
    return _told(tile, mode[:-1] + (own if first else other))


def _told(tile: Any, told: str) -> Any:
    return tile._replace(args=told if isinstance(tile.args, str) else (told, *tile.args[1:]))

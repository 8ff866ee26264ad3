"""Values to colours: how those of more than 8 bits are shown, and what a picture's sender may not know of that."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from service.images import transparency
from service.images.declared import Strange

_DEEP = ("I;16", "I;16L", "I;16B", "I", "F")
_BITS, _LEAST, _PLANES = 258, 262, 284  # tags of a TIFF; the second is 0 where the least value is white


def check_planes(image: Image.Image) -> None:
    """Refuse colours of more than 8 bits in planes: where these are not compressed, Pillow takes bytes for pixels."""
    tags = _tags(image)
    bits = tags.get(_BITS)
    if tags.get(_PLANES) == 2 and isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8:
        raise Strange(
            f"the picture is a TIFF of {max(bits)} bits a colour, each colour in a plane of its own; save it pixel by "
            "pixel (planar configuration 1)"
        )


def windowed(image: Image.Image, data: bytes, window: tuple[float, float] | None) -> Image.Image:
    """Return a PNG or a TIFF of 16 bits a colour as a window shows it, and any other picture as it is.

    Its transparency stays as it is.
    """
    if window is None or not transparency.deep_colours(image):
        return image
    low, high = window
    check_planes(image)
    values = transparency.values_of(data).astype(np.float32)
    found = Image.fromarray(np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8))
    if image.mode == "RGBA":
        found.putalpha(image.getchannel("A"))
    found.info = dict(image.info)
    return found


def shown(image: Image.Image, window: tuple[float, float] | None, *, opaque: bool, alpha: bool) -> Image.Image:
    """Return a picture in RGB, or in RGBA where that is asked for and there is transparency."""
    if image.mode in _DEEP:
        grey = _windowed(image, window) if window is not None or image.mode == "F" else _of_16_bits(image)
        if (clear := transparency.grey(image)) is None:
            return grey
        image = transparency.without(grey, clear)
    if image.mode in ("LAB", "HSV"):
        raise Strange(f"the picture's colours are {image.mode}; save it as RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    if opaque and rgba.getchannel("A").getextrema() == (0, 0):
        return rgba.convert("RGB")  # programs that know no transparency leave the fourth byte of a BMP at zero
    if alpha:
        return rgba
    return transparency.on_white(rgba)


def is_negative(image: Image.Image) -> bool:
    """Whether the least value is white, which Pillow heeds in pictures of up to 8 bits only."""
    return image.mode in _DEEP and _tags(image).get(_LEAST) == 0


def warnings(image: Image.Image, window: tuple[float, float] | None) -> tuple[str, ...]:
    """Return what a picture's sender may not know of how its values are shown."""
    return _warnings_of_greys(image, window) or _warnings_of_colours(image, window)


def _of_16_bits(image: Image.Image) -> Image.Image:
    values = np.clip(np.asarray(image), 0, 2**16 - 1).astype(np.uint32)  # Pillow would clip 16 bits to 255
    if image.mode.startswith("I;16") or values.max(initial=0) > 255:
        values *= 255
        values += 32_895
        values >>= 16  # the nearest to value / 257
    grey = values.astype(np.uint8)
    del values
    return Image.fromarray(grey).convert("RGB")


def _windowed(image: Image.Image, window: tuple[float, float] | None) -> Image.Image:
    low, high = window or _range_of(image)
    values = np.nan_to_num(np.asarray(image, np.float32), nan=low, posinf=high, neginf=low)
    grey = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _warnings_of_colours(image: Image.Image, window: tuple[float, float] | None) -> tuple[str, ...]:
    deep = transparency.deep_colours(image)
    if window is not None:
        bits = image.info.get("bit_depth", 8) if image.format == "HEIF" else max(_tags(image).get(_BITS, (8,)))
        if deep or bits <= 8 or image.mode in _DEEP:
            return ()
        kind = "HEIC" if image.format == "HEIF" else image.format
        return (f"the picture is a {kind} of {bits} bits a colour, over which no window is laid; send it as PNG",)
    if not deep:
        return ()
    top = int(np.asarray(image)[..., :3].max(initial=0))  # the first of two bytes
    if top >= 2**6:
        return ()
    return (
        f"the picture has 16 bits and no value above {256 * top + 255}, and is seen almost black; the model's "
        "catalogue entry can set window = [low, high], the values that become black and white",
    )


def _range_of(image: Image.Image) -> tuple[float, float]:
    """Return what numbers in a picture of floating-point values are taken for: fractions, or values of 8 or 16 bits."""
    values = np.asarray(image, np.float32)
    most = float(values[np.isfinite(values)].max(initial=0))
    return (0.0, 1.0) if most <= 1 else (0.0, 255.0) if most <= 255 else (0.0, 65_535.0)


def _warnings_of_greys(image: Image.Image, window: tuple[float, float] | None) -> tuple[str, ...]:
    if image.mode not in _DEEP or window is not None:
        return ()
    values = np.asarray(image)
    finite = values[np.isfinite(values)] if image.mode == "F" else values
    low, high = float(finite.min(initial=0)), float(finite.max(initial=0))
    remedy = "the model's catalogue entry can set window = [low, high], the values that become black and white"
    if image.mode == "F":
        top = _range_of(image)[1]
        return (f"the picture has floating-point values {low:g} to {high:g}; 0 to {top:g} are shown; {remedy}",)
    if low < 0:
        return (f"the picture has values {low:g} to {high:g}; those below 0 are shown black; {remedy}",)
    if high > 65_535:
        return (f"the picture has values up to {high:g}; those above 65535 are shown white; {remedy}",)
    if image.mode.startswith("I;16") and high < 2**14:
        dark = "white" if is_negative(image) else "black"
        return (f"the picture has 16 bits and values up to {high:g} only, and is seen almost {dark}; {remedy}",)
    return ()


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """Return what a TIFF says of itself; nothing of others."""
    return getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}

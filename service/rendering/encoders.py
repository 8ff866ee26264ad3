"""Drawings to picture files, and raw arrays to `.npy`."""

import io
import struct
import zlib

import numpy as np

from service.errors import InvalidParameter
from service.fair.wanted import still_wanted
from service.images.transparency import on_white
from service.rendering.drawing import Drawing, Floats

_BAND_BYTES = 4 * 2**20  # of a picture that are filtered and compressed at a time
_PNG_COLOURS = {
    "L": (0, 1),
    "RGB": (2, 3),
    "P": (3, 1),
    "RGBA": (6, 4),
}  # the standard's number of a mode, and its channels
_LONGEST_SIDE = {"WebP": 16_383, "JPEG": 65_500}


def png(image: Drawing) -> bytes:
    """Encode without loss, and fast: Pillow tries five filters on every line, which takes longer than all of this.

    Every line is written as its difference from the line above. Where that leaves few zeros, as in a photograph,
    zlib's search for repetitions finds next to nothing and is left out. A drawing of at most 256 colours stays one, of
    a third of the bytes.
    """
    palette = _palette(image)
    image = image if image.mode in _PNG_COLOURS and (palette or image.mode != "P") else image.convert("RGB")
    width, height = image.size
    colours, channels = _PNG_COLOURS[image.mode]
    lines = max(1, _BAND_BYTES // (width * channels))
    above = np.zeros(width * channels, np.uint8)
    parts: list[bytes] = []
    coder = None
    for top in range(0, height, lines):
        still_wanted()
        part = image.crop((0, top, width, min(top + lines, height))) if height > lines else image
        band = np.asarray(part).reshape(-1, width * channels)
        filtered = np.empty((len(band), 1 + width * channels), np.uint8)
        filtered[:, 0] = 2  # the filter "up"
        np.subtract(band[0], above, out=filtered[0, 1:])
        np.subtract(band[1:], band[:-1], out=filtered[1:, 1:])
        above = band[-1]
        if coder is None:
            few = np.count_nonzero(filtered) > 0.75 * filtered.size
            coder = zlib.compressobj(1, strategy=zlib.Z_HUFFMAN_ONLY if few else zlib.Z_DEFAULT_STRATEGY)
        parts.append(coder.compress(filtered.data))
    if coder is None:
        raise ValueError("a picture without a pixel")
    data = b"".join([*parts, coder.flush()])
    header = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks if body or name != b"PLTE")


def _palette(image: Drawing) -> bytes:
    """Return the colours of a drawing that has a palette of opaque ones, three bytes each; else nothing."""
    found = image.palette if image.mode == "P" and not image.has_transparency_data else None
    return bytes(found.palette) if found is not None and found.mode == "RGB" and found.palette else b""


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def jpeg(image: Drawing) -> bytes:
    """Encode small, for people: transparency is laid over white.

    Raises:
        InvalidParameter: it is longer than a JPEG can be.
    """
    if image.mode == "RGBA":
        image = on_white(image)
    return _encoded(image, "JPEG", quality=90)


def webp(image: Drawing) -> bytes:
    """Encode smaller, for people.

    Raises:
        InvalidParameter: it is longer than a WebP can be.
    """
    return _encoded(image, "WebP", quality=85, method=2)


def _encoded(image: Drawing, kind: str, **options: int) -> bytes:
    if max(image.size) > _LONGEST_SIDE[kind]:
        raise InvalidParameter.at(
            "/output",
            f"a {kind} has at most {_LONGEST_SIDE[kind]:,} pixels a side and this drawing is {image.width:,} x "
            f"{image.height:,}; ask for image/png, or for size: input",
        )
    buffer = io.BytesIO()
    (image.convert("RGB") if image.mode == "P" else image).save(buffer, kind, **options)
    return buffer.getvalue()


def npy(values: Floats) -> bytes:
    """Encode as NumPy's `.npy`."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values, dtype="<f4"), allow_pickle=False)
    return buffer.getvalue()

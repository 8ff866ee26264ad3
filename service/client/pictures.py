"""A picture in whatever form a program has it, to the bytes of a file."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import struct
import zlib
from typing import IO, Any, Protocol, TypeAlias, runtime_checkable
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest


@runtime_checkable
class Savable(Protocol):
    """A picture of Pillow's, which needs not be installed."""

    def save(self, fp: Any, format: str) -> None:
        """Write it as a file of that format."""


Picture: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | npt.NDArray[Any] | Savable
"""A path or data: URI, a file's bytes, an open file, an array, or a picture of Pillow's.

An array is (H, W, 3), (H, W, 4) or (H, W), of uint8 0..255; (H, W) may be uint16.
"""
_COLOURS = {1: 0, 3: 2, 4: 6}  # PNG's number for so many channels


def read(picture: Picture) -> bytes:
    """Return a picture's file; a picture that is no file becomes a PNG. Takes a while: not for an event loop.

    Raises:
        InvalidRequest: it is no picture, or cannot be read.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str) and picture[:5].lower() == "data:":
        return _of_uri(picture)
    if isinstance(picture, str | os.PathLike):
        return _of_path(os.fspath(picture))
    if isinstance(picture, np.ndarray):
        return png(picture)
    if isinstance(picture, Savable):
        return _saved(picture)
    if hasattr(picture, "read"):
        found = picture.read()
        if isinstance(found, bytes):
            return found
        raise InvalidRequest("the file is open as text; open it with 'rb'")
    raise InvalidRequest(
        f"a {type(picture).__name__} is no picture; give a path, bytes, an open file, an array or a Pillow image"
    )


def _of_path(path: str) -> bytes:
    if path.startswith(("http://", "https://")):
        raise InvalidRequest(f"{path}: addresses are not fetched; download the picture and give its bytes")
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # a zero byte in the name
        raise InvalidRequest(f"{path!r} is no path: {error}") from None


def _of_uri(uri: str) -> bytes:
    head, comma, data = uri.partition(",")
    try:
        if not comma:
            raise ValueError("it has no comma")
        return base64.b64decode(data, validate=True) if head.endswith(";base64") else unquote_to_bytes(data)
    except ValueError as error:
        raise InvalidRequest(f"not a valid data: URI: {error}") from None


def _saved(picture: Savable) -> bytes:
    buffer = io.BytesIO()
    mode = getattr(picture, "mode", "RGB")
    if mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):  # what a PNG can hold
        raise InvalidRequest(f"a picture of mode {mode} has no file that keeps it; give picture.convert('RGB')")
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def png(pixels: npt.NDArray[Any]) -> bytes:
    """Return an array as a PNG.

    Args:
        pixels: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8 0..255; uint16 where there is one channel.

    Raises:
        InvalidRequest: it is not of that shape or type.
    """
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in _COLOURS or not pixels.size:
        hint = "; it looks like (C, H, W): transpose it by (1, 2, 0)" if _channels_first(pixels) else ""
        raise InvalidRequest(
            f"an array of shape {pixels.shape} is no picture: that is (H, W, 3), (H, W, 4) or (H, W){hint}"
        )
    height, width, channels = pixels.shape
    if pixels.dtype != np.uint8 and not (pixels.dtype == np.uint16 and channels == 1):
        raise InvalidRequest(
            f"an array of {pixels.dtype} is no picture; give uint8 from 0 to 255, for example "
            "(x * 255).round().astype('uint8')"
        )
    depth = pixels.dtype.itemsize
    data = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    lines = np.empty((height, 1 + data.shape[1]), np.uint8)
    lines[:, 0] = 2  # the filter "up": each line as its difference from the line above
    lines[0, 1:] = data[0]
    np.subtract(data[1:], data[:-1], out=lines[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8 * depth, _COLOURS[channels], 0, 0, 0)
    chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(lines.tobytes(), 1)), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _channels_first(pixels: npt.NDArray[Any]) -> bool:
    return pixels.ndim == 3 and pixels.shape[0] in _COLOURS


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def session(data: bytes) -> str:
    """Return by what proxies send requests about one picture to one server, which may remember its outputs."""
    return hashlib.sha256(data).hexdigest()[:16]

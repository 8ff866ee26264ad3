"""Bytes to an RGB picture to a model's input, with every limit on pictures enforced here."""

import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from service.errors import TooLarge, UnprocessableImage, UnsupportedMediaType

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_RESAMPLING: Mapping[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# Pillow reads these formats' small parts one by one in Python, and goes over a JPEG once a scan: a file may be made so
# that a few bytes cost seconds. No program writes pictures that come near these bounds.
_READS_OF_HEADER, _READS = 10_000, 60_000
_READS_OF_GIF = 250_000  # which is made of blocks of at most 255 bytes
_JPEG_SCANS, _JPEG_SEGMENTS = 32, 10_000
_METADATA_BYTES = 2**19
_RUN_LENGTH_PIXELS = 4_000_000
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_UPRIGHT: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Transform:
    """How a picture becomes an input: shorter side to `resize`, centre crop, 0..1, minus mean, over deviation."""

    resize: int
    crop: tuple[int, int]  # (H, W)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bilinear"


@dataclass(frozen=True)
class Picture:
    """A decoded picture, the crop of it that a model sees, and where that crop lies."""

    original: Image.Image  # RGB, upright
    seen: Image.Image  # RGB, the model's input size
    box: Box  # x0, y0, x1, y1 of `seen` in pixels of the original; may reach beyond it where the crop was padded


def decode(data: bytes, *, max_bytes: int, max_pixels: int) -> Image.Image:
    """Return the picture in RGB, upright, its first frame; transparency is laid over white.

    Raises:
        TooLarge: more bytes or pixels than allowed; pixels are checked before any is decoded.
        UnsupportedMediaType: not one of `FORMATS`.
        UnprocessableImage: damaged or truncated.
    """
    if len(data) > max_bytes:
        raise TooLarge(
            f"the picture has {len(data):,} bytes and at most {max_bytes:,} are accepted; send a smaller one"
        )
    if not data:
        raise UnprocessableImage("the picture is empty (0 bytes); send the bytes of an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of all that Pillow warns of only a bomb matters, and pixels are counted
            if data.startswith(b"\xff\xd8"):
                _check_jpeg(data)
            file = _File(data)
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise TooLarge(
                        f"the picture has {width} x {height} = {width * height:,} pixels and at most "
                        f"{max_pixels:,} are accepted; scale it down"
                    )
                if image.info.get("compression") in (1, 2) and width * height > _RUN_LENGTH_PIXELS:
                    raise _Costly("a run-length coded BMP of so many pixels")
                file.reads_left = _READS_OF_GIF if image.format == "GIF" else _READS
                image.load()
                return _to_rgb(_upright(image))
    except UnidentifiedImageError:
        raise UnsupportedMediaType(
            f"the bytes are not an image of an accepted type; send one of {', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError:
        raise TooLarge(f"the picture has too many pixels; at most {max_pixels:,} are accepted; scale it down") from None
    except TooLarge:
        raise
    except _Costly as error:
        raise UnprocessableImage(f"the image cannot be decoded at a reasonable cost ({error}): save it again") from None
    except Exception as error:  # decoders raise almost anything on damaged files
        raise UnprocessableImage(
            f"the image cannot be decoded ({type(error).__name__}); it is damaged or cut off: save it again"
        ) from None


class _Costly(Exception):
    """A file that would take much longer than its size and pixels tell."""


class _File(io.BytesIO):
    """A file that may only be read so many times."""

    reads_left = _READS_OF_HEADER

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes."""
        self.reads_left -= 1
        if self.reads_left < 0:
            raise _Costly("it is made of very many small parts")
        return super().read(size)


def _check_jpeg(data: bytes) -> None:
    """Follow a JPEG's markers as its decoder will, and refuse what no camera or program writes.

    Raises:
        _Costly: too many scans or segments, too much EXIF, or a coding other than baseline and progressive.
    """
    at, scans, segments, metadata = 2, 0, 0, 0
    while found := _MARKER.search(data, at):
        at, marker = found.end(), data[found.end() - 1]
        if marker == 0xD9:  # the end
            return
        length = int.from_bytes(data[at : at + 2], "big")
        segments += 1
        scans += marker == 0xDA
        metadata += length if marker == 0xE1 and data[at + 2 : at + 6] == b"Exif" else 0
        if scans > _JPEG_SCANS or segments > _JPEG_SEGMENTS or metadata > _METADATA_BYTES:
            raise _Costly("it has very many scans or segments, or much EXIF")
        if 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise _Costly("its JPEG coding is neither baseline nor progressive")
        at += max(2, length)


def _upright(image: Image.Image) -> Image.Image:
    """Apply the orientation that EXIF or XMP tells; the rest of them is not read, as it may be anything."""
    if any(len(image.info.get(key, "")) > _METADATA_BYTES for key in ("exif", "Raw profile type exif")):
        return image
    try:
        method = _UPRIGHT.get(image.getexif().get(274, 1))
    except Exception:  # damaged
        return image
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16L", "I;16B", "I", "F"):  # Pillow would clip 16 bits to 255 instead of scaling them
        values = np.clip(np.asarray(image), 0, 2**16 - 1).astype(np.uint32)
        if image.mode.startswith("I;16") or values.max(initial=0) > 255:
            values *= 255
            values += 32_895
            values >>= 16  # the nearest to value / 257
        grey = values.astype(np.uint8)
        del values
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def prepare(image: Image.Image, transform: Transform) -> Picture:
    """Scale and crop a picture as the model's transform says.

    Raises:
        UnprocessableImage: too long and thin to be scaled within bounds.
    """
    width, height = image.size
    crop_h, crop_w = transform.crop
    short, long = min(width, height), max(width, height)
    if long > 100 * short:
        raise UnprocessableImage(
            f"the picture is {width} x {height}, more than 100 times longer than wide; the model would see less than "
            "1 % of it: cut it first"
        )
    scaled_long = int(transform.resize * long / short)
    scaled_w, scaled_h = (transform.resize, scaled_long) if width <= height else (scaled_long, transform.resize)
    left, top = _start(scaled_w, crop_w), _start(scaled_h, crop_h)
    scaled = image.resize((scaled_w, scaled_h), _RESAMPLING[transform.interpolation])
    seen = scaled.crop((left, top, left + crop_w, top + crop_h))  # beyond the picture: black
    x, y = width / scaled_w, height / scaled_h
    return Picture(image, seen, (left * x, top * y, (left + crop_w) * x, (top + crop_h) * y))


def _start(length: int, crop: int) -> int:
    """Return where a centre crop begins, rounded as torchvision does; negative where it has to be padded."""
    return round((length - crop) / 2.0) if length >= crop else -((crop - length) // 2)


def to_input(seen: Image.Image, transform: Transform) -> Tensor:
    """Return the model's input, (1, 3, H, W) float32."""
    pixels = torch.from_numpy(np.asarray(seen, dtype=np.float32) / 255.0).permute(2, 0, 1)
    mean, std = torch.tensor(transform.mean).view(3, 1, 1), torch.tensor(transform.std).view(3, 1, 1)
    return ((pixels - mean) / std)[None].contiguous()

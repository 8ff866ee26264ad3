"""Bytes to an RGB picture to a model's input, with every limit on pictures enforced here."""

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from service.errors import TooLarge, UnprocessableImage, UnsupportedMediaType

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_RESAMPLING: Mapping[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
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
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise TooLarge(
                        f"the picture has {width} x {height} = {width * height:,} pixels and at most "
                        f"{max_pixels:,} are accepted; scale it down"
                    )
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise UnsupportedMediaType(
            f"the bytes are not an image of an accepted type; send one of {', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError:
        raise TooLarge(f"the picture has too many pixels; at most {max_pixels:,} are accepted; scale it down") from None
    except TooLarge:
        raise
    except Exception as error:  # decoders raise almost anything on damaged files
        raise UnprocessableImage(
            f"the image cannot be decoded ({type(error).__name__}); it is damaged or cut off: save it again"
        ) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16L", "I;16B", "I", "F"):  # Pillow would clip 16 bits to 255 instead of scaling them
        values = np.asarray(image, dtype=np.float64)
        scale = 257.0 if values.max(initial=0) > 255 or image.mode.startswith("I;16") else 1.0
        grey = np.clip(np.rint(values / scale), 0, 255).astype(np.uint8)
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
    left, top = round((scaled_w - crop_w) / 2.0), round((scaled_h - crop_h) / 2.0)
    scaled = image.resize((scaled_w, scaled_h), _RESAMPLING[transform.interpolation])
    seen = scaled.crop((left, top, left + crop_w, top + crop_h))  # beyond the picture: black
    x, y = width / scaled_w, height / scaled_h
    return Picture(image, seen, (left * x, top * y, (left + crop_w) * x, (top + crop_h) * y))


def to_input(seen: Image.Image, transform: Transform) -> Tensor:
    """Return the model's input, (1, 3, H, W) float32."""
    pixels = torch.from_numpy(np.asarray(seen, dtype=np.float32) / 255.0).permute(2, 0, 1)
    mean, std = torch.tensor(transform.mean).view(3, 1, 1), torch.tensor(transform.std).view(3, 1, 1)
    return ((pixels - mean) / std)[None].contiguous()

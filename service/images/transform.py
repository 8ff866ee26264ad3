"""A picture to a model's input: scaled, cut or padded as the model's transform says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.errors import UnprocessableImage
from service.images.decoding import warnings_of
from service.images.transparency import on_white

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float32]
_SCALED_PIXELS = 50_000_000  # of a whole picture, of which a model sees a part
_RESAMPLING: Mapping[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Fit = Literal["crop", "squash", "pad"]
Order = Literal["rgb", "bgr"]
Centre = Literal["even", "down"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Transform:
    """How a picture becomes an input: scaled, the centre of it, black and white to `range`, minus mean, over deviation.

    `resize` is the length of the shorter side after scaling; or (H, W), which the scaled picture covers without a gap
    (`crop`), is pressed into (`squash`), or fits into whole (`pad`). Around the picture the mean colour is shown.
    `mean` and `std` are those of the network's channels, in their order, on the scale of `range`: one is grey, three
    are colours, four are colours and alpha. A crop cannot be centred where an odd number of pixels is left over: half
    a pixel is rounded to the `even` neighbour, as torchvision and timm do, or `down`, as transformers does.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]  # (H, W)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bilinear"
    fit: Fit = "crop"
    range: tuple[float, float] = (0.0, 1.0)
    order: Order = "rgb"
    window: tuple[float, float] | None = None  # values of deeper pictures that become black and white
    centre: Centre = "even"

    @property
    def channels(self) -> str:
        """Return what the channels of an input are, a letter each: `l`, `rgb`, `bgr`, `rgba` or `bgra`."""
        return {1: "l", 3: self.order, 4: f"{self.order}a"}[len(self.mean)]

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and deviation of values 0..1: (value - mean) / deviation is what the network takes."""
        low, high = self.range
        mean = tuple((value - low) / (high - low) for value in self.mean)
        return mean, tuple(value / (high - low) for value in self.std)

    def as_json(self) -> dict[str, object]:
        """Return all of it, JSON-like."""
        return asdict(self)


@dataclass(frozen=True)
class Picture:
    """A decoded picture, the part of it that a model sees, and where that part lies."""

    size: tuple[int, int]  # (width, height) of the original
    original: Image.Image | None  # RGB, upright; None where nothing is drawn on it
    seen: Image.Image  # RGB, the model's input size
    box: Box  # x0, y0, x1, y1 of `seen` in pixels of the original; may reach beyond it where the picture was padded
    alpha: Image.Image | None = None  # of `seen`, where the file has one
    warnings: tuple[str, ...] = ()  # what may not be as its sender thinks


def prepare(image: Image.Image, transform: Transform) -> Picture:
    """Scale a picture, and cut or pad it, as the model's transform says.

    Raises:
        UnprocessableImage: too long and thin to be scaled within bounds.
    """
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if long > 100 * short:
        raise UnprocessableImage(
            f"the picture is {width} x {height}, more than 100 times longer than wide; the model would see less than "
            "1 % of it: cut it first"
        )
    crop_h, crop_w = transform.crop
    scaled_w, scaled_h = _scaled(width, height, transform)
    if scaled_w * scaled_h > _SCALED_PIXELS:
        raise UnprocessableImage(
            f"the picture is {width} x {height}, and would be scaled to {scaled_w:,} x {scaled_h:,} before the model "
            f"sees its part of it, which is more than {_SCALED_PIXELS:,} pixels: cut it first"
        )
    left, top = (_start(*sides, transform.centre) for sides in ((scaled_w, crop_w), (scaled_h, crop_h)))
    frame = (left, top, left + crop_w, top + crop_h)
    x, y = width / scaled_w, height / scaled_h
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    original = image if alpha is None else on_white(image)
    how = _RESAMPLING[transform.interpolation]
    colour = _mean_colour(transform) if transform.fit == "pad" else (0, 0, 0)
    return Picture(
        original.size,
        original,
        _cut(original.resize((scaled_w, scaled_h), how), frame, colour),
        (left * x, top * y, (left + crop_w) * x, (top + crop_h) * y),
        None if alpha is None else _cut(alpha.resize((scaled_w, scaled_h), how), frame, 255),
        warnings_of(image),
    )


def _scaled(width: int, height: int, transform: Transform) -> tuple[int, int]:
    """Return width and height of the whole picture before the crop."""
    resize = transform.resize
    if isinstance(resize, int) and transform.fit == "crop":
        long = int(resize * max(width, height) / min(width, height))
        return (resize, long) if width <= height else (long, resize)
    box_h, box_w = (resize, resize) if isinstance(resize, int) else resize
    if transform.fit == "squash":
        return box_w, box_h
    scales = (box_w / width, box_h / height)
    scale = max(scales) if transform.fit == "crop" else min(scales)
    # The side that decides is exact; the other is a whole number of pixels, and covers or fits.
    other = math.ceil if transform.fit == "crop" else round
    exact_w = scale == scales[0]
    scaled_w = box_w if exact_w else max(1, other(width * scale - 1e-9))
    return scaled_w, (box_h if not exact_w else max(1, other(height * scale - 1e-9)))


def _start(length: int, crop: int, centre: Centre) -> int:
    """Return where a centre crop begins; negative where it has to be padded."""
    if length < crop:
        return -((crop - length) // 2)
    return round((length - crop) / 2.0) if centre == "even" else (length - crop) // 2


def _cut(image: Image.Image, frame: tuple[int, int, int, int], colour: int | tuple[int, ...]) -> Image.Image:
    """Return a part of a picture, which may reach beyond it."""
    left, top, right, bottom = frame
    if left >= 0 and top >= 0 and right <= image.width and bottom <= image.height:
        return image.crop(frame)
    whole = Image.new(image.mode, (right - left, bottom - top), colour)
    whole.paste(image, (-left, -top))
    return whole


def _mean_colour(transform: Transform) -> tuple[int, int, int]:
    levels = [round(255 * value) for value in transform.statistics[0][:3]]
    red, green, blue = levels * 3 if len(levels) == 1 else levels[::-1] if transform.order == "bgr" else levels
    return red, green, blue


def normalised(seen: Image.Image | Picture, transform: Transform) -> Floats:
    """Return what a model takes of what it sees, (1, C, H, W); alpha counts where the model takes it."""
    image, alpha = (seen.seen, seen.alpha) if isinstance(seen, Picture) else (seen, None)
    channels = transform.channels
    planes = [image.convert("L")] if channels == "l" else list(image.split()[:3])
    if channels.startswith("bgr"):
        planes.reverse()
    if channels.endswith("a"):
        planes.append(Image.new("L", image.size, 255) if alpha is None else alpha)
    values = np.empty((1, len(planes), image.height, image.width), np.float32)
    for plane, table, found in zip(planes, _tables(*transform.statistics), values[0], strict=True):
        table.take(np.asarray(plane), out=found, mode="clip")  # of all ways to look up, the quickest one
    return values


@lru_cache(maxsize=64)
def _tables(mean: tuple[float, ...], std: tuple[float, ...]) -> Floats:
    """Return what each of the 256 values becomes in each channel, (C, 256), to the bit what arithmetic gives."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    centre, scale = (np.array(numbers, np.float32)[:, None] for numbers in (mean, std))
    tables: Floats = (levels - centre) / scale
    return tables


def to_input(seen: Image.Image | Picture, transform: Transform) -> Tensor:
    """Return `normalised` as the tensor that a model takes."""
    import torch  # not at once: what only decodes needs none of it

    return torch.from_numpy(normalised(seen, transform))

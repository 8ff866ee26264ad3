"""What somebody else's preprocessing does to a picture, found by looking at what comes out.

Libraries describe their preprocessing in many ways, with exceptions in code; what it does is seen by a few pictures:
plain ones tell colours, their order and scale, ramps tell what is scaled by how much, and a detailed one tells apart
what is left.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.images import Centre, Interpolation, Order, Transform, prepare, to_input

Floats = NDArray[np.float64]
Process = Callable[[Image.Image], Floats]
"""A picture to an input, (C, H, W)."""

_LANDSCAPE, _PORTRAIT = (600, 400), (300, 420)


class Measured(NamedTuple):
    """Preprocessing by the catalogue's keys, and how far it is from what was measured."""

    known: dict[str, Any]
    error: float  # mean difference of a detailed picture, of values 0..1
    varies: bool  # the input's size follows the picture's: one for square pictures was taken


def measured(process: Process, interpolations: Sequence[Interpolation]) -> Measured:
    """Return what a preprocessing does.

    Args:
        process: the preprocessing, of RGB pictures.
        interpolations: those that it may use, likely ones first.

    Raises:
        ValueError: what comes out is no picture.
    """
    black = process(Image.new("RGB", (448, 448), "black"))
    if black.ndim != 3 or len(black) not in (1, 3):
        raise ValueError(f"it makes {black.shape} of a picture, and not (channels, height, width)")
    channels, *size = black.shape
    varies = process(Image.new("RGB", _LANDSCAPE, "black")).shape != black.shape
    centre = (slice(None), size[0] // 2, size[1] // 2)
    low, high = black[centre], process(Image.new("RGB", (448, 448), "white"))[centre]
    red = (process(Image.new("RGB", (448, 448), "red"))[centre] - low) / (high - low)
    order: Order = "bgr" if channels == 3 and red.argmax() == 2 else "rgb"
    std = 1 / (high - low)
    known: dict[str, Any] = {
        "channels": channels,
        "input_size": (size[0], size[1]),
        "mean": tuple(round(float(value), 6) for value in np.clip(-low * std, 0, 1) + 0.0),
        "std": tuple(float(f"{value:.6g}") for value in std),
        "order": order if channels == 3 else None,
    }
    if varies:
        return Measured(known | {"fit": "pad", "resize": tuple(size), "interpolation": interpolations[0]}, 0.0, True)

    def fractions(picture: Image.Image) -> Floats:
        found: Floats = (process(picture) - low[:, None, None]) * std[:, None, None]
        return found[::-1] if order == "bgr" else found

    pictures = [_detailed(_LANDSCAPE), _detailed(_PORTRAIT)]
    expected = [process(picture) for picture in pictures]
    best, least = {}, float("inf")
    for candidate in _candidates(fractions, (size[0], size[1]), interpolations):
        transform = Transform(
            candidate["resize"],
            (size[0], size[1]),
            known["mean"],
            known["std"],
            candidate["interpolation"],
            fit=candidate["fit"],
            centre=candidate["centre"],
            order=order if channels == 3 else "rgb",
        )
        ours = [to_input(prepare(picture, transform), transform)[0].numpy() for picture in pictures]
        apart = [np.abs(a - b) * std[:, None, None] for a, b in zip(ours, expected, strict=True)]
        error = max(float(values.mean()) for values in apart)
        if error < least:
            best, least = candidate, error
    return Measured(known | best, least, False)


def _detailed(size: tuple[int, int]) -> Image.Image:
    """Return a seeded picture with structure at all scales."""
    random = np.random.default_rng(0)
    values = np.zeros((size[1], size[0], 3))
    for cells, weight in ((6, 110), (40, 90), (200, 55)):
        coarse = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        values += weight * np.asarray(coarse.resize(size, Image.Resampling.NEAREST)) / 255
    return Image.fromarray(values.astype(np.uint8))


def _candidates(
    fractions: Process, size: tuple[int, int], interpolations: Sequence[Interpolation]
) -> Iterator[dict[str, Any]]:
    """Yield ways to scale and cut that are near what a ramp shows."""
    width, height = _LANDSCAPE
    x, y = np.meshgrid(np.arange(width) / (width - 1), np.arange(height) / (height - 1))
    across = fractions(Image.fromarray((np.stack([x, x, x], 2) * 255).round().astype(np.uint8)))[0]
    down = fractions(Image.fromarray((np.stack([y, y, y], 2) * 255).round().astype(np.uint8)))[0]
    scaled_w = _length(across[size[0] // 2], width)
    scaled_h = _length(down[:, size[1] // 2], height)
    near = range(-2, 3) if max(size) <= 640 else range(-1, 2)
    if abs(scaled_w / scaled_h * height / width - 1) > 0.03:
        margin = scaled_h / size[0]
        boxes = {(round(scaled_h) + d, round(scaled_w) + d) for d in near} | {size}
        boxes |= {(int(size[0] * margin) + d, int(size[1] * margin) + d) for d in near}
        ways: list[tuple[str, Any]] = [("squash", box) for box in sorted(boxes)]
    elif scaled_h < size[0] - 2 and scaled_w <= size[1] + 2:
        ways = [("pad", size)]
    else:
        ways = [("crop", round(min(scaled_w, scaled_h)) + d) for d in near]
    centres: tuple[Centre, ...] = ("even", "down")
    for fit, resize in ways:
        for interpolation in interpolations:
            for centre in centres if fit == "crop" else centres[:1]:
                yield {"fit": fit, "resize": resize, "interpolation": interpolation, "centre": centre}


def _length(values: Floats, length: int) -> float:
    """Return how long a whole ramp is after scaling, given what is seen of it and, maybe, of padding around."""
    wide = 8
    slopes = values[wide:] - values[:-wide]
    rising = np.flatnonzero(slopes > slopes.max() / 4)
    first, last = np.quantile(rising, (0.1, 0.9)).round().astype(int)  # clear of borders, where resampling has one side
    slope = (values[last + wide // 2] - values[first + wide // 2]) / (last - first)
    return float((length - 1) / length / slope)

"""How pictures become inputs: what a catalogue says comes first, then what the source knows; the rest is assumed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import CatalogError
from service.images import Transform

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEYS = ("channels", "input_size", "resize", "fit", "interpolation", "mean", "std", "range", "order", "window")
_LOOSE = 4.0  # a deviation of more than so many times the whole range scales no picture that people take
_LEAST = 1e-7  # the same of what is less: inputs of 10 million times the range are no numbers that networks take


@dataclass(frozen=True)
class Prepared:
    """A transform, and what of it was assumed: `key = value` in a catalogue's words."""

    transform: Transform
    assumed: tuple[str, ...]


def preparing(given: Mapping[str, Any], known: Mapping[str, Any]) -> Prepared:
    """Return the transform of keys that a catalogue gives, over those that a source knows.

    Args:
        given: of `KEYS`, what the user says.
        known: of `KEYS`, and `centre` of `Transform`, what the source says; values that are None count as not said, on
            both sides.

    Raises:
        CatalogError: values that do not go together; the message begins with the key.
    """
    given = {key: value for key, value in given.items() if value is not None}
    known = {key: value for key, value in known.items() if value is not None}
    channels = given.get("channels", known.get("channels", _counted(given)))
    if channels not in (1, 3, 4):
        raise CatalogError(
            f"channels: the network takes {channels!r}, and pictures have 1, 3 or 4; let a factory return a module "
            "whose forward makes the network's channels of a picture's"
        )
    if "channels" in given and given["channels"] != known.get("channels", given["channels"]):
        # The network was made with other channels than its source tells of: its colours are not known any more.
        known = {key: value for key, value in known.items() if key not in ("mean", "std", "order")}
    if given.get("order", known.get("order", "rgb")) != known.get("order", "rgb"):  # its statistics turn with it
        known |= {key: tuple(known[key])[:3][::-1] + tuple(known[key])[3:] for key in ("mean", "std") if key in known}
    said = known | given
    crop = _pair(said.get("input_size", 224))
    low, high = said.get("range", (0.0, 1.0))
    if not low < high:
        raise CatalogError(f"range: [{low}, {high}] is empty; write [low, high], what black and white become")
    mean, std = (
        _per_channel(said.get(key, _default(key, channels, low, high, said.get("order"))), channels, key)
        for key in ("mean", "std")
    )
    _check_statistics(mean, std, low, high)
    fit = said.get("fit", "crop")
    resize = _resize(given, known, crop, fit)
    if fit == "crop" and min(_pair(resize)) < min(crop):
        raise CatalogError(f"resize: {resize} is less than the input size {crop}; pictures would need padding")
    if "window" in said and said["window"][0] >= said["window"][1]:
        raise CatalogError(f"window: {list(said['window'])} is empty; write [low, high], values shown black and white")
    if said.get("order", "rgb") != "rgb" and channels == 1:
        raise CatalogError("order: a grey input has one channel and no order; leave it out")
    transform = Transform(
        resize,
        crop,
        mean,
        std,
        said.get("interpolation", "bilinear"),
        fit=fit,
        range=(float(low), float(high)),
        order=said.get("order", "rgb"),
        window=said.get("window"),
        centre=said.get("centre", "even"),
    )
    return Prepared(transform, _assumed(said, transform))


def _counted(given: Mapping[str, Any]) -> int:
    """Return how many channels the statistics speak of, where nothing else does: lists of one or four say so."""
    counts = {len(given[key]) for key in ("mean", "std") if isinstance(given.get(key), list | tuple)}
    return counts.pop() if counts in ({1}, {4}) else 3


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _default(key: str, channels: int, low: float, high: float, order: str | None) -> tuple[float, ...]:
    """Return ImageNet's statistics, on the scale of the range; for grey their averages, for alpha none."""
    values = (IMAGENET_MEAN if key == "mean" else IMAGENET_STD)[:: -1 if order == "bgr" else 1]
    chosen = {1: (sum(values) / 3,), 3: values, 4: (*values, 0.0 if key == "mean" else 1.0)}[channels]
    return tuple(round(value * (high - low) + (low if key == "mean" else 0.0), 6) for value in chosen)


def _per_channel(value: Any, channels: int, key: str) -> tuple[float, ...]:
    values = (float(value),) if isinstance(value, int | float) else tuple(float(v) for v in value)
    if len(values) == 1:
        values *= channels
    if len(values) != channels:
        raise CatalogError(
            f"{key}: {len(values)} numbers for {channels} channels; give {channels}, or one for all of them"
        )
    return values


def _check_statistics(mean: tuple[float, ...], std: tuple[float, ...], low: float, high: float) -> None:
    if min(std) <= 0:
        raise CatalogError("std: it has to be above 0 in each channel")
    if min(std) < _LEAST * (high - low):
        raise CatalogError(
            f"std: {list(std)} makes inputs of {(high - low) / min(std):.2g}; write the deviation of values {low:g} to "
            f"{high:g}, 1.0 to leave them as they are"
        )
    if min(mean) < low or max(mean) > high or max(std) > _LOOSE * (high - low):
        key, worst = ("mean", mean) if min(mean) < low or max(mean) > high else ("std", std)
        raise CatalogError(
            f"{key}: {list(worst)} is not of values {low:g} to {high:g}, which pixels have here; divide mean and std "
            "by 255, or, for a network that takes values 0 to 255, set range = [0, 255]"
        )


def _resize(
    given: Mapping[str, Any], known: Mapping[str, Any], crop: tuple[int, int], fit: str
) -> int | tuple[int, int]:
    """Return the shorter side that pictures are scaled to, or the (height, width) that they cover, fill or fit into."""
    resize = given.get("resize")
    if resize is None and "input_size" not in given and fit == known.get("fit", "crop"):
        resize = known.get("resize")
    if resize is None:
        resize = crop if fit != "crop" or crop[0] != crop[1] else crop[0]
    if fit != "crop":
        return _pair(resize)
    return resize if isinstance(resize, int) else (int(resize[0]), int(resize[1]))


def _assumed(said: Mapping[str, Any], transform: Transform) -> tuple[str, ...]:
    values = {
        "input_size": list(transform.crop),
        "resize": transform.resize if isinstance(transform.resize, int) else list(transform.resize),
        "interpolation": f'"{transform.interpolation}"',
        "mean": list(transform.mean),
        "std": list(transform.std),
        "fit": f'"{transform.fit}"',
    }
    return tuple(f"{key} = {value}" for key, value in values.items() if key not in said)

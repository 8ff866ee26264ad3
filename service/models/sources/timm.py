"""timm's networks: `timm/NAME[.TAG]`, by the names of its own registry."""

import importlib
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from service.errors import CatalogError, suggested
from service.models.arguments import calling, refused
from service.models.sources.base import Network, Wish, fitted, nearest, seeded

_PREFIX = "timm/"
_WIDEST = 2048  # outputs of an embedding; those of data sets without names are more
_FITS = {"center": "crop", "squash": "squash", "border": "pad"}


def _timm() -> Any:
    if importlib.util.find_spec("timm") is None:
        raise CatalogError("timm is not installed: pip install 'heatlens[timm]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm
    return timm


class Timm:
    """Networks that timm builds, with the preprocessing of its configurations."""

    name, form = "timm", "timm/NAME[.TAG]"

    def takes(self, text: str, folder: Any) -> bool:
        """Whether it has the prefix."""
        return text.startswith(_PREFIX)

    def names(self) -> Sequence[str]:
        """Return all architectures, and none where timm is not installed."""
        return [_PREFIX + name for name in _timm().list_models()] if importlib.util.find_spec("timm") else ()

    def network(self, text: str, wish: Wish) -> Network:
        """See `Source.network`."""
        timm, name = _timm(), text.removeprefix(_PREFIX)
        config = _config(timm, name)
        arguments = dict(wish.arguments)
        if wish.weights == "default" and not (config.get("hf_hub_id") or config.get("url")):
            raise CatalogError(f"timm publishes no weights of {name!r}; give a file with {text}=FILE, or {text}=random")
        return Network(
            source=text,
            build=partial(_build, name, wish),
            identity=lambda network: ["timm", name, arguments],
            preprocessing=_preprocessing(timm, config, arguments),
            labels=_labels(timm, config) if "num_classes" not in arguments else (),
            task=_task(timm, config, arguments),
            words=f"timm {name}, weights: {wish.weights}",
        )


def _config(timm: Any, name: str) -> dict[str, Any]:
    """Return what timm says of a network and its weights.

    Raises:
        CatalogError: it has no network of that name, or no such weights of it.
    """
    if not timm.is_model(name):
        near = nearest(name, timm.list_models())
        did = suggested([_PREFIX + near] if near else [])
        raise CatalogError(f"timm has no network {name.partition('.')[0]!r}{did}")
    architecture, _, tag = name.partition(".")
    tags = [known.partition(".")[2] for known in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        known = ", ".join(tags) or "none"
        raise CatalogError(f"timm has no weights {tag!r} of {architecture!r}; there are: {known}")
    try:
        config: dict[str, Any] = timm.get_pretrained_cfg(name).to_dict()
    except Exception:  # networks without weights have no configuration
        return {}
    return config


def _preprocessing(timm: Any, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    if not config:
        return {}
    found = timm.data.resolve_data_config({}, pretrained_cfg=dict(config))
    channels, height, width = found["input_size"]
    side = arguments.get("img_size")
    if side is not None:
        height, width = _size(side)
    scaled = int(height / found["crop_pct"]), int(width / found["crop_pct"])
    known = {
        "channels": channels,
        "input_size": (height, width),
        "resize": scaled[0] if height == width and found["crop_mode"] == "center" else scaled,
        "fit": _FITS[found["crop_mode"]],
        "interpolation": found["interpolation"] if found["interpolation"] != "random" else "bilinear",
        "mean": tuple(found["mean"]),
        "std": tuple(found["std"]),
    }
    if arguments.get("in_chans", channels) != channels:  # its statistics are those of other channels
        known = {key: value for key, value in known.items() if key not in ("mean", "std")}
        known["channels"] = arguments["in_chans"]
    return known


def _size(side: Any) -> tuple[int, int]:
    """Return (height, width) of what timm takes for an image size."""
    both = side if isinstance(side, list | tuple) else (side, side)
    if len(both) != 2 or any(isinstance(one, bool) or not isinstance(one, int) or one < 1 for one in both):
        raise CatalogError(f"arguments.img_size: {side!r} is no size; write a number of pixels, or [height, width]")
    return both[0], both[1]


def _labels(timm: Any, config: Mapping[str, Any]) -> tuple[str, ...]:
    if config.get("label_names"):
        described = config.get("label_descriptions") or {}
        return tuple(described.get(name, name) for name in config["label_names"])
    subset = timm.data.infer_imagenet_subset(dict(config)) if config else None
    return tuple(timm.data.ImageNetInfo(subset).label_descriptions()) if subset else ()


def _task(timm: Any, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> str | None:
    """Return the task: networks with the classes of a data set are classifiers, those with none are embeddings.

    So are image towers of CLIP, whose outputs are counted as classes: as many as no data set that is trained on has.
    """
    classes = arguments.get("num_classes", config.get("num_classes"))
    if classes == 0:
        return "embedding"
    if "num_classes" in arguments or classes is None:
        return None
    known = config.get("label_names") or timm.data.infer_imagenet_subset(dict(config))
    return "classification" if known or classes > _WIDEST else "embedding"


def _build(name: str, wish: Wish, said: list[str]) -> nn.Module:
    timm = _timm()
    make = partial(calling, f"timm's {name}", partial(timm.create_model, name, **wish.arguments), wish.arguments)
    if wish.weights == "default":
        try:
            network: nn.Module = timm.create_model(name, pretrained=True, **wish.arguments)
            return network
        except Exception as error:
            if said_so := refused(f"timm's {name}", error, wish.arguments):
                raise CatalogError(said_so) from None
            raise CatalogError(
                f"the weights of timm/{name} cannot be fetched and are not in the local cache "
                f"({type(error).__name__}); "
                f"without a network give a file with timm/{name}=FILE, or timm/{name}=random for seeded random weights"
            ) from None
    built: nn.Module = seeded(make)
    if wish.file is None:
        return built
    convert = getattr(importlib.import_module(type(built).__module__), "checkpoint_filter_fn", None)
    adapt = None if convert is None else lambda values: convert(values, built)
    return fitted(built, wish.state(wish.file), said, adapt)


SOURCE = Timm()

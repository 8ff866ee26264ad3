"""torchvision's networks: `torchvision/NAME`, or the plain name."""

import warnings
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

from torch import nn

from service.errors import CatalogError
from service.models.arguments import calling
from service.models.sources.base import Network, Wish, fitted, seeded, unknown
from service.models.weights import State

_PREFIX = "torchvision/"
# Which task the networks of a family are for; other families take videos, or two pictures.
_FAMILIES: Mapping[str, str] = {
    "": "classification",
    "quantization": "classification",
    "segmentation": "segmentation",
    "detection": "detection",
}
_REFUSED: Mapping[str, str] = {
    "video": "takes videos, (N, C, T, H, W), and pictures are explained here",
    "optical_flow": "takes two pictures, and one is explained here",
}


@cache
def _listed(family: str) -> tuple[str, ...]:
    from torchvision import models

    names: list[str] = models.list_models(module=getattr(models, family) if family else models)
    return tuple(names)


def torchvision_names() -> list[str]:
    """Return the names of all torchvision classification networks."""
    return list(_listed(""))


def _family(name: str) -> str | None:
    return next((family for family in (*_FAMILIES, *_REFUSED) if name in _listed(family)), None)


class Torchvision:
    """Networks that torchvision builds, with its own preprocessing and labels."""

    name, form = "torchvision", "torchvision/NAME, or NAME alone"

    def takes(self, text: str, folder: Any) -> bool:
        """Whether it has the prefix, or is the name of a network."""
        return text.startswith(_PREFIX) or _family(text) is not None

    def names(self) -> Sequence[str]:
        """Return the plain names of what can be served."""
        return [name for family in _FAMILIES for name in _listed(family)]

    def network(self, text: str, wish: Wish) -> Network:
        """See `Source.network`."""
        name = text.removeprefix(_PREFIX)
        family = _family(name)
        if family is None:
            raise CatalogError(unknown(name, wish.folder))
        if family in _REFUSED:
            raise CatalogError(f"torchvision's {name!r} {_REFUSED[family]}; name a network of single pictures")
        if wish.weights == "default" and wish.arguments:
            raise CatalogError(
                "the published weights fit the network without arguments only; name a .safetensors or .pth file, or "
                "'random'"
            )
        return Network(
            source=_PREFIX + name,
            build=partial(_build, name, family, wish),
            identity=lambda network: ["torchvision", name, dict(wish.arguments)],
            preprocessing=_preprocessing(name, family),
            labels=_labels(name) if "num_classes" not in wish.arguments else (),
            task=_FAMILIES[family],
            output="out" if family == "segmentation" else None,
            words=f"torchvision {name}, weights: {wish.weights}",
            said=_said(name, wish),
        )


def _published(name: str) -> Any:
    from torchvision import models

    return models.get_model_weights(name).DEFAULT


def _labels(name: str) -> tuple[str, ...]:
    return tuple(_published(name).meta.get("categories", ()))


def _preprocessing(name: str, family: str) -> dict[str, Any]:
    preset = _published(name).transforms()
    if family == "detection":  # they normalise, and scale to the size they were trained with, themselves
        sizes = {
            "ssd300_vgg16": 300,
            "ssdlite320_mobilenet_v3_large": 320,
            "fasterrcnn_mobilenet_v3_large_320_fpn": 320,
        }
        fit = "squash" if name.startswith("ssd") else "pad"
        known = {"input_size": sizes.get(name, 800), "fit": fit, "mean": (0.0,) * 3, "std": (1.0,) * 3}
        return known | {"resize": known["input_size"], "interpolation": "bilinear"}
    crop = getattr(preset, "crop_size", preset.resize_size)[0]
    return {
        "input_size": crop,
        "resize": preset.resize_size[0],
        "fit": "crop",
        "interpolation": preset.interpolation.value,
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
    }


def _colours_inside(name: str) -> bool:
    return name.removeprefix("quantized_") in ("googlenet", "inception_v3")


def _said(name: str, wish: Wish) -> tuple[str, ...]:
    if not _colours_inside(name) or wish.file is None or "transform_input" in wish.arguments:
        return ()
    return ("arguments.transform_input = true, as published: set it to false for weights trained otherwise",)


def _build(name: str, family: str, wish: Wish, said: list[str]) -> nn.Module:
    from torchvision import models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of initialisers that take long, and of weights' names
        if wish.weights == "default":
            return _without_auxiliary(_downloaded(name, family))
        options = _plain(name, family) | dict(wish.arguments)

        def make(**options: Any) -> nn.Module:
            what = f"torchvision's {name}"
            made: nn.Module = calling(what, partial(models.get_model, name, weights=None, **options), wish.arguments)
            return made

        if wish.file is None:
            return _without_auxiliary(seeded(partial(make, **options)))
        state = wish.state(wish.file)
        given = options | _as_published(name, family, state, wish.arguments)
        return _without_auxiliary(fitted(seeded(partial(make, **given)), state, said))


def _downloaded(name: str, family: str) -> nn.Module:
    from torchvision import models

    options = {"quantize": True} if family == "quantization" else {}
    try:
        network: nn.Module = models.get_model(name, weights=_published(name), **options)
        return network
    except Exception as error:
        raise CatalogError(
            f"the weights of {name!r} cannot be downloaded ({type(error).__name__}); give a file with "
            f"{name}=FILE.pth, or {name}=random for seeded random weights"
        ) from None


def _plain(name: str, family: str) -> dict[str, Any]:
    """Return the options that keep a builder from downloading parts, and from warning."""
    if family in ("segmentation", "detection"):
        return {"weights_backbone": None}
    return {"init_weights": True} if _colours_inside(name) else {}


def _as_published(name: str, family: str, state: State, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a builder makes the network of a file: with auxiliary classifiers where the file has them."""
    auxiliary = any(part in ("aux1", "aux2", "AuxLogits") for key in state.values for part in key.split("."))
    given: dict[str, Any] = {}
    if _colours_inside(name):
        given = {"init_weights": False, "aux_logits": auxiliary, "transform_input": True}
    elif family == "segmentation" and not name.startswith("lraspp"):
        given = {"aux_loss": any(key.split(".")[0] == "aux_classifier" for key in state.values)}
    return {key: value for key, value in given.items() if key not in arguments}


def _without_auxiliary(network: nn.Module) -> nn.Module:
    """Drop the training-time classifiers of GoogLeNet, Inception and segmenters, which no evaluation reads."""
    for name in ("aux1", "aux2", "AuxLogits", "aux_classifier"):
        if getattr(network, name, None) is not None:
            setattr(network, name, None)
    if hasattr(network, "aux_logits"):
        setattr(network, "aux_logits", False)  # noqa: B010 - an nn.Module types its attributes as modules
    return network


SOURCE = Torchvision()

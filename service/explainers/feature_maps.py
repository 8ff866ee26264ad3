"""Feature maps: the activations of a layer, as Zeiler & Fergus 2014, section 4, and Yosinski et al. 2015 show them."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.errors import InvalidParameter
from service.explainers.base import Explainer, Explanation, Facts, LayerInfo, Map, Probe, Targets, explainer

_ACTIVATIONS = {
    "relu": torch.relu,
    "relu6": torch.nn.functional.relu6,
    "silu": torch.nn.functional.silu,
    "hardswish": torch.nn.functional.hardswish,
    "gelu": torch.nn.functional.gelu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
Channel = Annotated[int, Field(ge=0)]


def check_channels(channels: tuple[int, ...], info: LayerInfo) -> None:
    """Raise `InvalidParameter` where a channel number is not one of the layer's."""
    for i, channel in enumerate(channels):
        if channel >= info.shape[0]:
            raise InvalidParameter.at(
                f"/params/channels/{i}",
                f"channel {channel} is out of range: layer {info.path!r} has channels 0 to {info.shape[0] - 1}",
            )


@explainer(
    "feature-maps",
    reference="Zeiler & Fergus 2014, section 4; Yosinski et al. 2015",
    requirement="A layer with spatial feature maps.",
    cost="1 forward",
)
class FeatureMaps(Explainer):
    """What each channel of a layer answers to the picture, one small picture per channel in a grid.

    Each channel is scaled to 0..255 on its own; the raw array keeps the values. Lower layers keep the picture's
    pixels, higher ones are abstract and sparse: `details.layers[].zeros` is the share of exact zeros.
    """

    takes_targets = False

    layers: Annotated[
        tuple[str, ...],
        Field(
            max_length=16,
            description="Paths of the layers; default: the last spatial feature map.",
            examples=[["layer1", "layer4"]],
        ),
    ] = ()
    channels: Annotated[
        tuple[Channel, ...],
        Field(max_length=256, description="Channel numbers to show, in this order; default: the strongest `top_k`."),
    ] = ()
    top_k: Annotated[
        int, Field(ge=1, le=256, description="How many channels to show, strongest first, where none are named.")
    ] = 16
    activation: Annotated[
        Literal["before", "after"],
        Field(description="`after` applies the activation function that directly follows the layer, if one does."),
    ] = "before"

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a layer with spatial maps; where there is no default one, it has to be named."""
        facts.require_spatial(cls.name)

    def forwards(self, facts: Facts, targets: int) -> int:
        """Return 1."""
        return 1

    def explain(self, probe: Probe, image: Tensor | None, targets: Targets) -> Explanation:
        """Return one grid (k, h, w) a layer, channels ordered by energy (mean square) or as asked for."""
        assert image is not None
        paths: tuple[str | None, ...] = self.layers or (None,)
        wanted = [probe.facts.layer(path, f"/params/layers/{i}") for i, path in enumerate(paths)]
        for info in wanted:
            check_channels(self.channels, info)
        trace = probe.trace(image, layers=list(dict.fromkeys(info.path for info in wanted)))
        assert trace.outputs is not None
        maps, details = [], []
        for info in wanted:
            a = trace.activations[info.path][0]  # (C, h, w)
            applied = info.followed_by if self.activation == "after" else None
            if applied:
                a = _ACTIVATIONS[applied](a)
            energy = a.square().mean((1, 2))
            channels = self.channels or tuple(energy.argsort(descending=True, stable=True)[: self.top_k].tolist())
            shown = a[list(channels)]
            maps.append(
                Map(
                    f"feature-maps {info.path}",
                    shown,
                    "grid",
                    layer=info.path,
                    channels=channels,
                    interpolation="nearest",
                )
            )
            details.append(
                {
                    "layer": info.path,
                    "shape": list(a.shape),
                    "zeros": float((a == 0).float().mean()),
                    "channels": list(channels),
                    "energy": energy[list(channels)].tolist(),
                    "followed_by": info.followed_by,
                    "activation_applied": applied,
                }
            )
        return Explanation(maps=maps, details={"layers": details}, outputs=trace.outputs[0])

    def resolved(self, facts: Facts) -> dict[str, object]:
        """Return the parameters as used."""
        return super().resolved(facts) | {"layers": [facts.layer(path).path for path in self.layers or (None,)]}

"""Feature maps: the activations of a layer, as Zeiler & Fergus 2014, section 4, and Yosinski et al. 2015 show them."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, LayerInfo, Map, Probe, Rows, Targets, Tracing
from service.explainers.base import LayerExplainer, explainer
from service.explainers.fields import DISTINCT, Channels, Layers, check_channels, layers_of


@explainer(
    "feature-maps",
    reference="Zeiler & Fergus 2014, section 4; Yosinski et al. 2015",
    requirement="A layer with spatial feature maps.",
    cost="1 forward",
    kind="grid",
)
class FeatureMaps(LayerExplainer):
    """What each channel of a layer answers to the picture, one small picture per channel in a grid.

    Each channel is scaled to 0..255 on its own; the raw array keeps the values. Lower layers keep the picture's
    pixels, higher ones are abstract and sparse: `details.layers[].zeros` is the share of exact zeros.
    """

    takes_targets = False

    layers: Layers = ()
    channels: Annotated[
        Channels,
        Field(max_length=256, description="Channel numbers to show, in this order; default: the strongest `top_k`."),
        DISTINCT,
    ] = ()
    top_k: Annotated[
        int, Field(ge=1, le=256, description="How many channels to show, strongest first, where none are named.")
    ] = 16
    activation: Annotated[
        Literal["before", "after"],
        Field(
            description="`after`: what the activation function that directly follows a layer makes of it, if one does."
        ),
    ] = "before"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return 1."""
        return 1

    def values(self, facts: Facts, targets: int) -> int:
        """Return the values of all channels that will be shown."""
        shapes = [info.shape for info in layers_of(self.layers, facts)]
        return sum((len(self.channels) or min(self.top_k, c)) * h * w for c, h, w in shapes)

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one grid (k, h, w) a layer, channels ordered by energy (mean square) or as asked for."""
        wanted = layers_of(self.layers, probe.facts)
        for info in wanted:
            check_channels(self.channels, info)
        trace = probe.trace(Rows.of(image), Tracing(layers=tuple(dict.fromkeys(map(self._address, wanted)))))
        maps, details = [], []
        for info in wanted:
            a = trace.activations[self._address(info)][0]  # (C, h, w)
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
                    "activation_applied": info.followed_by if self.activation == "after" else None,
                }
            )
        return Explanation(maps=maps, details={"layers": details}, outputs=trace.outputs[0])

    def _address(self, info: LayerInfo) -> str:
        """Return what to look at: the layer's output, or what the network's own activation function makes of it."""
        return info.activated if self.activation == "after" else info.path

"""DeconvNet: Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 2.1."""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from service.contract import INPUT, Box, Explanation, Facts, Map, Probe, Rows, Rule, Targets, Trace, Tracing
from service.errors import InvalidParameter
from service.explainers.base import Explainer, explainer
from service.explainers.fields import DISTINCT, Channels, Layer, check_channels

Coordinate = Annotated[int, Field(ge=0)]


@explainer(
    "deconvnet",
    reference="Zeiler & Fergus 2014, section 2.1",
    requirement="A layer with spatial feature maps, in a network that rectifies with ReLU or ReLU6.",
    cost="2 forwards, and two backwards from the layer to the input per channel",
    kind="picture",
)
class DeconvNet(Explainer):
    """Which pattern of the picture caused an activation: the activation is projected back to the pixels.

    One activation of the layer is kept with its value, all others are zeroed, and the signal S runs back: unpooled
    through the switches of each max pool, S = ReLU(S) at each ReLU, S = W^T S at each convolution with the filters W.
    The picture has the input's resolution because it is a projection, not an enlarged feature map. Each map carries in
    `patch` the part of the input that its receptive field covers, and is drawn beside it.

    Max pools send the signal to the position that won, adding up where windows overlap. Smooth activations
    (SiLU, GELU, gates) have no rectifier and pass their gradient; `details.other_activations` names them. In a network
    without max pools (`details.max_pools` is 0) there are no switches: all that a deep projection knows of the picture
    is which activation was strongest, so look at early layers there.
    """

    takes_targets = False

    layer: Layer = None
    channels: Annotated[
        Channels,
        Field(max_length=32, description="Channels to project; default: the `top_k` with the strongest activation."),
        DISTINCT,
    ] = ()
    top_k: Annotated[int, Field(ge=1, le=32, description="How many channels, where none are named.")] = 4
    keep: Annotated[
        Literal["maximum", "channel"],
        Field(description="Keep one activation (the strongest, or the one at `position`), or the whole channel."),
    ] = "maximum"
    position: Annotated[
        tuple[Coordinate, Coordinate] | None,
        Field(description="Row and column of the activation to keep, instead of the strongest one.", examples=[[3, 3]]),
    ] = None

    @model_validator(mode="after")
    def _one_position(self) -> "DeconvNet":
        if self.position is not None and self.keep == "channel":
            raise ValueError("position is for one activation; leave it out, or set keep to 'maximum'")
        return self

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need at least one rectifier, and a layer with spatial maps."""
        does = "rectifies the signal where the network rectified its features"
        facts.require_rectifiers(cls.name, does, "'saliency', which needs none")
        facts.require_spatial(cls.name)
        facts.require_projection(cls.name)

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        return 2 + 4 * (len(self.channels) or self.top_k)

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed projection (3, H, W) a channel."""
        info = probe.facts.layer(self.layer)
        check_channels(self.channels, info)
        _, h, w = info.shape
        if self.position is not None and not (self.position[0] < h and self.position[1] < w):
            raise InvalidParameter.at(
                "/params/position", f"position {self.position} is outside layer {info.path!r}, which is {h} x {w}"
            )

        def kept(a: Tensor) -> list[tuple[int, int, int]]:
            """Choose (channel, row, column) on the activations (C, h, w)."""
            flat = a.flatten(1)
            at = (
                flat.argmax(1)
                if self.position is None
                else flat.argmax(1) * 0 + self.position[0] * w + self.position[1]
            )
            peak = flat.gather(1, at[:, None])[:, 0]
            channels = self.channels or tuple(peak.argsort(descending=True, stable=True)[: self.top_k].tolist())
            return [(c, int(at[c]) // w, int(at[c]) % w) for c in channels]

        def signal(seen: Trace) -> Tensor:
            # d/dA of sum(A * constant) is the constant: the kept activations with their own values.
            a = seen.activations[info.path]
            start = []
            for channel, y, x in kept(a[0].detach()):
                seed = torch.zeros_like(a)
                part = (0, channel) if self.keep == "channel" else (0, channel, y, x)
                seed[part] = a.detach()[part]
                start.append((a * seed).sum((1, 2, 3)))
            return torch.stack(start, 1)

        how = Tracing(layers=(info.path,), wrt=(INPUT,), rule=Rule("deconvnet"))
        trace = probe.trace(Rows.of(image), how, signal)
        a = trace.activations[info.path][0]
        chosen = kept(a)
        projections = trace.gradients[INPUT][:, 0]  # (T, 3, H, W)
        patches = self._receptive_fields(probe, image, info.path, chosen)
        return Explanation(
            maps=[
                Map(
                    f"deconvnet {info.path} channel {c}",
                    probe.facts.coloured(projections[i]),
                    "picture",
                    layer=info.path,
                    channel=c,
                    patch=patches[i],
                )
                for i, (c, _, _) in enumerate(chosen)
            ],
            details={
                "rectifiers": probe.facts.rectifiers,
                "max_pools": probe.facts.max_pools,
                "other_activations": list(probe.facts.other_activations),
                "activations": [
                    {"channel": c, "position": [y, x], "value": float(a[c, y, x]), "patch": list(patches[i])}
                    for i, (c, y, x) in enumerate(chosen)
                ],
            },
            outputs=trace.outputs[0],
        )

    def _receptive_fields(
        self, probe: Probe, image: Tensor, layer: str, chosen: list[tuple[int, int, int]]
    ) -> list[Box]:
        """Return the box (x0, y0, x1, y1) of the input that each kept activation depends on.

        All channels of a position share their receptive field. Their gradients together, passed on whole through
        every ReLU and to all of each max pool's window, reach all of it; where they do not vanish is the box.
        """
        whole = (0, 0, image.shape[3], image.shape[2])
        if self.keep == "channel":
            return [whole] * len(chosen)

        def positions(seen: Trace) -> Tensor:
            a = seen.activations[layer]
            return torch.stack([a[:, :, y, x].sum(1) for _, y, x in chosen], 1)

        how = Tracing(layers=(layer,), wrt=(INPUT,), rule=Rule("linear"), partial=True)
        reach = probe.trace(Rows.of(image), how, positions).gradients[INPUT][:, 0]
        boxes = []
        for support in reach.ne(0).any(1):  # (H, W)
            ys, xs = support.any(1).nonzero()[:, 0].tolist(), support.any(0).nonzero()[:, 0].tolist()
            boxes.append((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1) if ys and xs else whole)
        return boxes

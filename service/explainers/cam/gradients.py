"""A layer's maps and what the targets' scores say of them: what the CAMs by one gradient share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from service.contract import Explanation, Facts, Kind, Map, Probe, Rows, Targets, Trace, Tracing
from service.explainers.base import LayerExplainer
from service.explainers.fields import Layer


@dataclass(frozen=True)
class AtLayer:
    """Maps of a layer on the clean picture, and the gradients of the targets' logits there."""

    layer: str
    a: Tensor  # (C, h, w)
    g: Tensor  # (T, C, h, w)
    outputs: Tensor  # (K,)
    targets: Targets  # fixed


def at_layer(probe: Probe, image: Tensor, targets: Targets, layer: str | None) -> AtLayer:
    """Run one forward, and a backward to the layer (default: the network's) for each target."""
    path = probe.facts.layer(layer).path

    def logits(seen: Trace) -> Tensor:
        return targets.scores(seen.outputs)

    trace = probe.trace(Rows.of(image), Tracing(layers=(path,), wrt=(path,)), logits)
    outputs = trace.outputs[0]
    return AtLayer(path, trace.activations[path][0], trace.gradients[path][:, 0], outputs, targets.fixed(outputs))


class GradientCAM(LayerExplainer):
    """A CAM of one gradient at a layer."""

    layer: Layer = None

    def passes(self, facts: Facts, targets: int) -> int:
        """Return an upper bound: the backward stops at the layer."""
        return 1 + 2 * targets

    def _explained(
        self, at: AtLayer, cam: Tensor, kind: Kind = "positive", details: Mapping[str, Any] | None = None
    ) -> Explanation:
        """Return maps (T, h, w) as an explanation."""
        return Explanation(
            maps=[
                Map(self.name, cam[i], kind, target=t, layer=at.layer)
                for i, t in enumerate(at.targets.chosen(at.outputs))
            ],
            details={"score": "logit", **(details or {})},
            outputs=at.outputs,
        )

"""Maps of layers and what the targets' scores say of them: what the CAMs by gradients share."""

from collections.abc import Callable, Mapping, Sequence
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
    a: Tensor  # (K, h, w)
    g: Tensor  # (T, K, h, w)
    outputs: Tensor  # (K,)
    targets: Targets  # fixed


def at_layers(
    probe: Probe,
    image: Tensor,
    targets: Targets,
    layers: Sequence[str],
    method: str,
    columns: Callable[[Tensor], Tensor] | None = None,
) -> list[AtLayer]:
    """Run one forward, and for each target one backward that stops at the earliest of the layers.

    What is differentiated are `columns` (n, T) of outputs (n, K); default: the targets' logits.

    Raises:
        NotApplicable: no gradient of the outputs gets to one of them.
    """
    paths = tuple(dict.fromkeys(layers))
    for path in paths:
        probe.facts.require_gradient(method, path)

    def differentiated(seen: Trace) -> Tensor:
        return targets.scores(seen.outputs) if columns is None else columns(seen.outputs)

    trace = probe.trace(Rows.of(image), Tracing(layers=paths, wrt=paths), differentiated)
    outputs = trace.outputs[0]
    fixed = targets.fixed(outputs)
    return [AtLayer(path, trace.activations[path][0], trace.gradients[path][:, 0], outputs, fixed) for path in layers]


class GradientCAM(LayerExplainer):
    """A CAM by gradients at one layer."""

    layer: Layer = None

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a layer with maps that a gradient of the outputs gets to."""
        facts.require_spatial(cls.name)
        facts.require_gradient(cls.name, None)

    def passes(self, facts: Facts, targets: int) -> int:
        """Return an upper bound: the backward stops at the layer."""
        return 1 + 2 * targets

    def _at_layer(
        self, probe: Probe, image: Tensor, targets: Targets, columns: Callable[[Tensor], Tensor] | None = None
    ) -> AtLayer:
        """Run one forward, and a backward to the layer for each target."""
        (at,) = at_layers(probe, image, targets, [probe.facts.layer(self.layer).path], self.name, columns)
        return at

    def _explained(
        self,
        probe: Probe,
        at: AtLayer,
        cam: Tensor,
        kind: Kind = "positive",
        details: Mapping[str, Any] | None = None,
    ) -> Explanation:
        """Return maps (T, h, w) as an explanation."""
        followed = {"followed_by": probe.facts.layers[at.layer].followed_by}
        return Explanation(
            maps=[
                Map(self.name, cam[i], kind, target=t, layer=at.layer)
                for i, t in enumerate(at.targets.chosen(at.outputs))
            ],
            details={"score": probe.facts.task.kinds[0], **followed, **(details or {})},
            outputs=at.outputs,
        )

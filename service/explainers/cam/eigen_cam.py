"""Eigen-CAM: Muhammad & Yeasin 2020, "Eigen-CAM: Class Activation Map using Principal Components"."""

from torch import Tensor

from service.contract import Explanation, Facts, Map, Probe, Rows, Targets, Tracing
from service.explainers.base import LayerExplainer, explainer
from service.explainers.cam.components import Centre, first_component
from service.explainers.fields import Layer


@explainer(
    "eigen-cam",
    reference="Muhammad & Yeasin 2020, section III",
    requirement="A layer with spatial feature maps; no gradients and no target.",
    cost="1 forward",
    kind="signed",
)
class EigenCAM(LayerExplainer):
    """What dominates a layer's feature maps, whatever the class: their first principal component.

    With X the matrix of positions by channels and v_1 its first right singular vector, map = X v_1. It knows no class:
    it shows what the layer sees most of, and `details.energy_share` says how much of all that it is. The sign of v_1 is
    arbitrary; here positive is where the features are strong.
    """

    takes_targets = False
    layer: Layer = None
    centre: Centre = True

    def passes(self, facts: Facts, targets: int) -> int:
        """Return 1."""
        return 1

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed (h, w) map."""
        info = probe.facts.layer(self.layer)
        trace = probe.trace(Rows.of(image), Tracing(layers=(info.path,)))
        found = first_component(trace.activations[info.path][0], centre=self.centre)
        return Explanation(
            maps=[Map(self.name, found.projected, "signed", layer=info.path)],
            details={"energy_share": found.share, "followed_by": info.followed_by},
            outputs=trace.outputs[0],
        )

"""HiResCAM: Draelos & Carin 2020, "Use HiResCAM instead of Grad-CAM for faithful explanations"."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Probe, Targets
from service.explainers.base import explainer
from service.explainers.cam.gradients import GradientCAM
from service.explainers.fields import Relu
from service.explainers.rounding import added


@explainer(
    "hires-cam",
    reference="Draelos & Carin 2020, section 3, equation 3",
    requirement="A layer with spatial feature maps; any head.",
    cost="1 forward, and a backward from the output to the layer per target",
    kind="signed",
)
class HiResCAM(GradientCAM):
    """What each position of a layer adds to the class's score: gradient times activation, summed over the channels.

    map = sum_k dy_c/dA_k A_k, element by element, so that no position borrows another one's gradient as in Grad-CAM.
    Where only linear layers follow, it adds up to the logit less a bias. `details.contribution` is what it adds up to,
    before any ReLU, and `details.unexplained` the rest of the logit.
    """

    relu: Relu = False
    each: Annotated[
        bool,
        Field(
            description="Drop what speaks against the class in each channel, before the channels are added up; the map "
            "is >= 0 then, and adds up to nothing."
        ),
    ] = False

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed (h, w) map a target; >= 0 with `relu` or `each`."""
        at = self._at_layer(probe, image, targets)
        parts = at.g * at.a  # (T, K, h, w)
        cam = added(parts.relu() if self.each else parts)
        total = parts.sum((1, 2, 3))
        details = {
            "contribution": total.tolist(),
            "unexplained": (at.targets.scores(at.outputs) - total).tolist(),
        }
        if self.relu or self.each:
            return self._explained(probe, at, cam.relu(), details=details)
        return self._explained(probe, at, cam, "signed", details)

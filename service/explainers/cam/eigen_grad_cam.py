"""Eigen-Grad-CAM: Gildenblat 2021, of pytorch-grad-cam: Eigen-CAM of the gradient times the activation."""

import torch
from torch import Tensor

from service.contract import Explanation, Probe, Targets
from service.explainers.base import explainer
from service.explainers.cam.components import Centre, first_component
from service.explainers.cam.gradients import GradientCAM


@explainer(
    "eigen-grad-cam",
    reference="Gildenblat 2021 (pytorch-grad-cam), after Muhammad & Yeasin 2020, section III",
    requirement="A layer with spatial feature maps; any head.",
    cost="1 forward, and a backward from the output to the layer per target",
    kind="signed",
)
class EigenGradCAM(GradientCAM):
    """What dominates a layer's feature maps as far as they matter to the class: Eigen-CAM of gradient times activation.

    With X the matrix of positions by channels of dy_c/dA * A and v_1 its first right singular vector, map = X v_1;
    `details.energy_share` says how much of all X it is, per target. The sign of v_1 is arbitrary; here positive is
    where much is at stake, for the class or against it.
    """

    centre: Centre = True

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed (h, w) map a target."""
        at = self._at_layer(probe, image, targets)
        found = [first_component(g * at.a, centre=self.centre) for g in at.g]
        cam = torch.stack([one.projected for one in found])
        return self._explained(probe, at, cam, "signed", {"energy_share": [one.share for one in found]})

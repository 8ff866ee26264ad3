"""Grad-CAM: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks", section 3."""

from torch import Tensor

from service.contract import Explanation, Probe, Targets
from service.explainers.base import explainer
from service.explainers.cam.gradients import GradientCAM
from service.explainers.fields import Relu
from service.explainers.rounding import weighted


@explainer(
    "grad-cam",
    reference="Selvaraju et al. 2017, section 3, equations 1 and 2",
    requirement="A layer with spatial feature maps; any head.",
    cost="1 forward, and a backward from the output to the layer per target",
)
class GradCAM(GradientCAM):
    """Where a layer's features speak for a class: feature maps weighted by their mean gradient.

    alpha_k = mean over positions of dy_c/dA_k; map = ReLU(sum_k alpha_k A_k), with y_c the logit (or the regression's
    value) before softmax. On a GAP -> linear head it is ReLU(CAM) divided by the number of positions.
    """

    relu: Relu = True

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (h, w) map a target: >= 0, or signed without `relu`."""
        at = self._at_layer(probe, image, targets)
        alpha = at.g.mean((2, 3))  # (T, K)
        cam = weighted(alpha, at.a)
        return self._explained(probe, at, cam.relu()) if self.relu else self._explained(probe, at, cam, "signed")

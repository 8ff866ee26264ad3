"""XGrad-CAM: Fu et al. 2020, "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs"."""

import torch
from torch import Tensor

from service.contract import Explanation, Probe, Targets
from service.explainers.base import explainer
from service.explainers.cam.gradients import GradientCAM
from service.explainers.rounding import ROUNDING, weighted


@explainer(
    "xgrad-cam",
    reference="Fu et al. 2020, equation 8",
    requirement="A layer with spatial feature maps; any head.",
    cost="1 forward, and a backward from the output to the layer per target",
)
class XGradCAM(GradientCAM):
    """Grad-CAM whose map adds up to what the layer's features contribute: gradients averaged by the activations.

    With g = dy_c/dA, w_k = sum_ij g A_k / sum_ij A_k; map = ReLU(sum_k w_k A_k). Before the ReLU it adds up to
    sum_kij g A_k, which is the whole logit less a constant where the network behind the layer is linear;
    `details.contribution` is that sum and `details.conservation_residual` how far the map is from it. Where activations
    add up to zero but for rounding, w_k has no meaning and counts as 0; `details.undefined_weights` says in how many
    channels that are not zero themselves. On a GAP -> linear head it is Grad-CAM.
    """

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (h, w) map >= 0 a target."""
        at = self._at_layer(probe, image, targets)
        a = at.a.double()
        s = a.sum((1, 2))  # (K,)
        told = s.abs() > ROUNDING * a.abs().sum((1, 2))  # what is left where values cancel is rounding
        contribution = (at.g * a).sum((2, 3))  # (T, K)
        w = torch.where(told, contribution / torch.where(told, s, 1), 0)
        cam = weighted(w, at.a)
        total = contribution.sum(1)
        undefined = ~told & at.a.ne(0).any(2).any(1)
        details = {
            "contribution": total.tolist(),
            "conservation_residual": float((cam.sum((1, 2)) - total).abs().max()),
            "undefined_weights": int(undefined.sum()),
        }
        return self._explained(probe, at, cam.relu(), details=details)

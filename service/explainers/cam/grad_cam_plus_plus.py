"""Grad-CAM++: Chattopadhay et al. 2018, "Grad-CAM++: Improved Visual Explanations for Deep CNNs", section 3.2."""

from typing import Any

import torch
from torch import Tensor

from service.contract import Explanation, Probe, Targets
from service.explainers.base import explainer
from service.explainers.cam.gradients import GradientCAM
from service.explainers.rounding import weighted


@explainer(
    "grad-cam++",
    reference="Chattopadhay et al. 2018, section 3.2, equations 7 and 19",
    requirement="A layer with spatial feature maps, best behind its ReLU; any head.",
    cost="1 forward, and a backward from the output to the layer per target",
)
class GradCAMPlusPlus(GradientCAM):
    """Grad-CAM that gives each occurrence of the class its share, large or small: each position weighs for itself.

    With g = dy_c/dA and S_k the sum of A_k over its positions, alpha = g^2 / (2 g^2 + S_k g^3) = 1 / (2 + S_k g), so
    that no epsilon is needed; w_k = sum_ij alpha ReLU(g); map = ReLU(sum_k w_k A_k). The paper explains exp(y_c), whose
    own factor exp(y_c) is common to all weights and left out. On a GAP -> linear head w_k = ReLU(v_k) / (2 + v_k mean
    A_k) with the head's weights v.

    Where maps are negative, 2 + S_k g may be zero or less, which gives alpha no meaning: it counts as 0 there, and
    `details.undefined_weights` says at how many positions with g > 0, per target. `details.smallest_divisor` is the
    smallest one that counts: 2 or more where maps are not negative, and near 0 where few positions decide everything.
    """

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (h, w) map >= 0 a target."""
        at = self._at_layer(probe, image, targets)
        s = at.a.sum((1, 2))[:, None, None]  # (K, 1, 1)
        divisor = 2 + s * at.g  # (T, K, h, w)
        defined = divisor > 0
        alpha = torch.where(defined, 1 / torch.where(defined, divisor, 1), 0)
        w = (alpha * at.g.relu()).sum((2, 3))  # (T, K)
        cam = weighted(w, at.a).relu()
        return self._explained(probe, at, cam, details=divisors(divisor, at.g))


def divisors(divisor: Tensor, g: Tensor) -> dict[str, Any]:
    """Return, per target, how many divisors (T, K, h, w) at g > 0 are none, and the smallest of those that are."""
    counts = torch.where(g > 0, divisor, torch.inf)
    smallest = torch.where(counts > 0, counts, torch.inf).amin((1, 2, 3)).tolist()
    return {
        "undefined_weights": (counts <= 0).sum((1, 2, 3)).tolist(),
        "smallest_divisor": [value if value < torch.inf else None for value in smallest],
    }

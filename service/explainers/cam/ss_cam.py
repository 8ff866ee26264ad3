"""SS-CAM: Wang et al. 2020, "SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization"."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from pydantic import Field
from torch import Tensor

from service.explainers.base import explainer
from service.explainers.cam.masking.masks import MaskedCAM, Variation
from service.explainers.fields import Seed
from service.explainers.noise import gaussian


@explainer(
    "ss-cam",
    reference="Wang et al. 2020 (arXiv 2006.14255), smoothing of the feature maps",
    requirement="A layer with spatial feature maps; no gradients.",
    cost="samples times Score-CAM: 1 forward per sample and distinct feature map of the layer",
)
class SSCAM(MaskedCAM):
    """Score-CAM whose scores are averaged over noisy masks, so that no single mask decides by its sharp edges.

    CIC_k = mean_s f(X * clip(H_k + e_s)) - f(X_b), with H_k as in Score-CAM, e_s Gaussian noise at every pixel of the
    mask and clip to 0..1; weights = softmax over the channels of CIC; map = ReLU(sum_k w_k A_k). A sample's noise is
    the same for all channels, so that channels differ by their maps alone. The paper's deviation of 2 would leave
    nothing of a mask in 0..1; with `deviation: 0` it is Score-CAM, at Score-CAM's cost.
    """

    samples: Annotated[int, Field(ge=1, le=64, description="Noise fields to average over.")] = 8
    deviation: Annotated[float, Field(ge=0, le=1, description="Noise deviation, of masks in 0..1.")] = 0.1
    seed: Seed = 0

    def variations(self) -> Sequence[Variation]:
        """Return one variation a noise field; without noise all are the mask itself."""
        if self.deviation == 0:
            return super().variations()
        return [
            Variation(partial(self._noisy, sample=s), ("noise", self.deviation, self.seed, s), keeps_zero=False)
            for s in range(self.samples)
        ]

    def _noisy(self, h: Tensor, sample: int) -> Tensor:
        """Return masks (n, H, W) with a sample's noise (H, W), in 0..1."""
        e = gaussian(tuple(h.shape[1:]), self.seed, sample).to(h)
        return (h + self.deviation * e).clamp(0, 1)

"""IS-CAM: Naidu et al. 2020, "IS-CAM: Integrated Score-CAM for axiomatic-based explanations"."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.explainers.base import explainer
from service.explainers.cam.masking.masks import MaskedCAM, Masks, Variation


@explainer(
    "is-cam",
    reference="Naidu et al. 2020 (arXiv 2010.03023)",
    requirement="A layer with spatial feature maps; no gradients.",
    cost="samples times Score-CAM: 1 forward per sample and distinct feature map of the layer",
)
class ISCAM(MaskedCAM):
    """Score-CAM whose scores are averaged on the way from black to the masked picture.

    CIC_k = mean_{i = 1..N} f(X * c_i H_k) - f(X_b), with H_k as in Score-CAM; weights = softmax over the channels of
    CIC; map = ReLU(sum_k w_k A_k). On the straight path c_i = i / N, up to the masked picture itself; the published
    one has c_i = sum_{j <= i} j / N, up to (N + 1) / 2 times the picture, far beyond what a network has ever been
    shown. `details.path` holds the c_i. With a single sample on the straight path it is Score-CAM.
    """

    samples: Annotated[int, Field(ge=1, le=32, description="N: steps on the path.")] = 10
    path: Annotated[
        Literal["straight", "published"],
        Field(description="`straight`: from black to the masked picture. `published`: as printed, far beyond it."),
    ] = "straight"

    def variations(self) -> Sequence[Variation]:
        """Return one variation a step, the brightest first: on the straight path that is Score-CAM's."""
        return [
            Variation(partial(torch.mul, other=c), ("times", c)) if c != 1 else Variation()
            for c in reversed(self._path())
        ]

    def _path(self) -> list[float]:
        """Return c_1 to c_N."""
        n = self.samples
        return [i / n if self.path == "straight" else i * (i + 1) / 2 / n for i in range(1, n + 1)]

    def _details(self, cic: Tensor, masks: Masks, channels: int) -> dict[str, Any]:
        return super()._details(cic, masks, channels) | {"path": self._path()}

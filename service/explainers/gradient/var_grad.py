"""VarGrad: Adebayo et al. 2018, "Sanity Checks for Saliency Maps"; SmoothGrad-Squared: Hooker et al. 2019."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.contract import INPUT, Explanation, Facts, Probe, Targets, Trace
from service.explainers.base import explainer
from service.explainers.fields import Colours, Noise, Seed
from service.explainers.gradient.inputs import AT_INPUT, InputGradient, clean, scored
from service.explainers.noise import noisy


@explainer(
    "var-grad",
    reference="Adebayo et al. 2018, appendix; SmoothGrad-Squared: Hooker et al. 2019",
    requirement="Any differentiable model.",
    cost="for each sample, and for the picture, 1 forward and a whole backward per target",
)
class VarGrad(InputGradient):
    """How much the gradient at each pixel differs between noisy copies of the picture, or its mean square.

    With g = df/dX at X + e over n Gaussian noises e: `variance` is sum (g - mean g)^2 / (n - 1), which is zero where
    the network is linear; `square` is the mean of g^2 (SmoothGrad-Squared).
    """

    statistic: Annotated[
        Literal["variance", "square"], Field(description="What of the gradients: their variance or mean square.")
    ] = "variance"
    samples: Annotated[int, Field(ge=2, le=512, description="Noisy copies.")] = 32
    noise: Noise = 0.15
    seed: Seed = 0
    colours: Colours = "absmax"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        return (1 + 2 * targets) * (self.samples + 1)

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (H, W) map >= 0 a target, in units of the gradient squared; (3, H, W) with `keep`."""
        gradient, outputs, targets = clean(probe, image, targets, self.score)
        # Sums of what differs from the clean picture's gradient: a small variance is no difference of large numbers.
        centre = torch.zeros_like(gradient) if self.statistic == "square" else gradient

        def total(piece: Trace) -> Sequence[Tensor]:
            first, second = torch.zeros(2, *centre.shape, dtype=torch.float64, device=centre.device)
            for g in piece.gradients[INPUT].unbind(1):  # one copy's after the other: doubles of a batch would be large
                d = g.double() - centre  # (T, C, H, W)
                first += d
                second.addcmul_(d, d)
            return [first, second]

        copies, n = noisy(image, self.samples, self.noise, self.seed), self.samples
        first, second = probe.trace(copies, AT_INPUT, scored(targets, self.score), total=total).totals
        found = second / n if self.statistic == "square" else ((second - first.square() / n) / (n - 1)).clamp(min=0)
        return self._explained(probe.facts, found, self.colours, targets, outputs, positive=True)

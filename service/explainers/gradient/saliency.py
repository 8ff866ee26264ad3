"""Saliency: Simonyan et al. 2014, section 3; SmoothGrad: Smilkov et al. 2017, section 2.2."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Probe, Rows, Targets
from service.explainers.base import explainer
from service.explainers.fields import Noise, Seed
from service.explainers.gradient.inputs import InputGradient, clean, outputs_of, smoothed


@explainer(
    "saliency",
    reference="Simonyan et al. 2014, section 3.1; SmoothGrad: Smilkov et al. 2017",
    requirement="Any differentiable model.",
    cost="1 forward and a whole backward per target; with SmoothGrad, that for each sample",
)
class Saliency(InputGradient):
    """How much the score moves when one pixel moves: |dy_c/dX|, the maximum over the colour channels.

    `signed` keeps the sign and adds the channels up instead. `times_input` multiplies the gradient by the
    (normalised) input. SmoothGrad takes the mean of dy_c/dX at X + e over Gaussian noises e before either.
    """

    sign: Annotated[
        Literal["absolute", "signed"],
        Field(description="Largest absolute value over the colour channels, or their signed sum."),
    ] = "absolute"
    times_input: Annotated[bool, Field(description="Multiply the gradient by the input.")] = False
    smooth_samples: Annotated[
        int, Field(ge=0, le=512, description="Noisy copies to average over (SmoothGrad); 0: the plain gradient.")
    ] = 0
    smooth_noise: Noise = 0.15
    seed: Seed = 0

    def estimates(self) -> bool:
        """Where it is smoothed."""
        return self.smooth_samples > 0

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        return (1 + 2 * targets) * max(1, self.smooth_samples) + (self.smooth_samples > 0)

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (H, W) map a target: >= 0, or signed."""
        if self.smooth_samples == 0:
            gradient, outputs, targets = clean(probe, image, targets, self.score)  # (T, C, H, W)
        else:
            outputs = outputs_of(probe, Rows.of(image))[0]
            targets = targets.fixed(outputs)  # the clean picture's, not each noisy copy's
            gradient = smoothed(probe, image, targets, self.score, self.smooth_samples, self.smooth_noise, self.seed)
        if self.times_input:
            gradient = gradient * image
        return self._explained(probe.facts, gradient, "sum" if self.sign == "signed" else "absmax", targets, outputs)

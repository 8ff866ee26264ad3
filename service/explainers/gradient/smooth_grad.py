"""SmoothGrad: Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise", section 2.2."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Probe, Rows, Targets
from service.explainers.base import explainer
from service.explainers.fields import Colours, Noise, Seed
from service.explainers.gradient.inputs import InputGradient, outputs_of, smoothed


@explainer(
    "smooth-grad",
    reference="Smilkov et al. 2017, section 2.2",
    requirement="Any differentiable model.",
    cost="for each sample 1 forward and a whole backward per target; and 1 forward",
)
class SmoothGrad(InputGradient):
    """How much the score moves when one pixel moves, averaged over noisy copies of the picture.

    The mean of df/dX at X + e over Gaussian noises e, with its sign: what changes from copy to copy cancels.
    """

    samples: Annotated[int, Field(ge=1, le=512, description="Noisy copies to average over.")] = 32
    noise: Noise = 0.15
    seed: Seed = 0
    colours: Colours = "absmax"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        return (1 + 2 * targets) * self.samples + 1

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (H, W) map a target: >= 0, signed, or (3, H, W)."""
        outputs = outputs_of(probe, Rows.of(image))[0]
        targets = targets.fixed(outputs)
        gradient = smoothed(probe, image, targets, self.score, self.samples, self.noise, self.seed)
        return self._explained(probe.facts, gradient, self.colours, targets, outputs)

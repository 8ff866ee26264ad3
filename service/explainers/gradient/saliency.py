"""Saliency: Simonyan et al. 2014, section 3; SmoothGrad: Smilkov et al. 2017, section 3.1."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from service.contract import INPUT, Explanation, Facts, Kind, Map, Probe, Rows, Targets, Trace, Tracing
from service.explainers.base import Explainer, explainer
from service.explainers.fields import ScoreOf, Seed
from service.explainers.noise import noisy


@explainer(
    "saliency",
    reference="Simonyan et al. 2014, section 3.1; SmoothGrad: Smilkov et al. 2017",
    requirement="Any differentiable model.",
    cost="1 forward and a whole backward per target; with SmoothGrad, that for each sample",
)
class Saliency(Explainer):
    """How much the score moves when one pixel moves: |dy_c/dX|, the maximum over the colour channels.

    `signed` keeps the sign and adds the channels up instead. `times_input` multiplies the gradient by the
    (normalised) input. SmoothGrad takes the mean of dy_c/dX at X + e over Gaussian noises e before either.
    """

    score: ScoreOf = "logit"
    sign: Annotated[
        Literal["absolute", "signed"],
        Field(description="Largest absolute value over the colour channels, or their signed sum."),
    ] = "absolute"
    times_input: Annotated[bool, Field(description="Multiply the gradient by the input.")] = False
    smooth_samples: Annotated[
        int, Field(ge=0, le=512, description="Noisy copies to average over (SmoothGrad); 0: the plain gradient.")
    ] = 0
    smooth_noise: Annotated[
        float, Field(gt=0, le=1, description="Noise deviation, as a share of the input's value range.")
    ] = 0.15
    seed: Seed = 0

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a gradient at the input."""
        facts.require_gradient(cls.name)

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        return (1 + 2 * targets) * max(1, self.smooth_samples) + (self.smooth_samples > 0)

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (H, W) map a target: >= 0, or signed."""

        def score(seen: Trace) -> Tensor:
            return targets.scores(seen.outputs, self.score)

        at_input = Tracing(wrt=(INPUT,))
        if self.smooth_samples == 0:
            trace = probe.trace(Rows.of(image), at_input, score)
            outputs = trace.outputs[0]
            targets = targets.fixed(outputs)
            gradient = trace.gradients[INPUT][:, 0]  # (T, 3, H, W)
        else:
            outputs = probe.trace(Rows.of(image), Tracing()).outputs[0]
            targets = targets.fixed(outputs)  # the clean picture's, not each noisy copy's
            copies = noisy(image, self.smooth_samples, self.smooth_noise, self.seed)
            trace = probe.trace(copies, at_input, score, total=lambda piece: [piece.gradients[INPUT].sum(1)])
            gradient = trace.totals[0] / self.smooth_samples
        if self.times_input:
            gradient = gradient * image
        signed = self.sign == "signed"
        maps = gradient.sum(1) if signed else gradient.abs().amax(1)
        kind: Kind = "signed" if signed else "positive"
        return Explanation(
            maps=[Map("saliency", maps[i], kind, target=t) for i, t in enumerate(targets.chosen(outputs))],
            details={"score": self.score},
            outputs=outputs,
        )

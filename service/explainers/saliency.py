"""Saliency: Simonyan et al. 2014, section 3; SmoothGrad: Smilkov et al. 2017, section 3.1."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.explainers.base import (
    INPUT,
    Explainer,
    Explanation,
    Facts,
    Kind,
    Map,
    Probe,
    Score,
    Targets,
    Trace,
    explainer,
)

_CHUNK = 8  # noisy copies differentiated together; the result does not depend on it


@explainer(
    "saliency",
    reference="Simonyan et al. 2014, section 3.1; SmoothGrad: Smilkov et al. 2017",
    requirement="Any differentiable model.",
    cost="1 forward and a whole backward per target; with SmoothGrad, that for each sample",
)
class Saliency(Explainer):
    """How much the score moves when one pixel moves: |dy_c/dX|, the maximum over the colour channels.

    `signed` keeps the sign and adds the channels up instead. `times_input` multiplies the gradient by the
    (normalised) input. SmoothGrad averages the gradient over noisy copies of the picture before either.
    """

    score: Annotated[Score, Field(description="y: the logit, or the probability after softmax.")] = "logit"
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
    seed: Annotated[int, Field(ge=0, le=2**63 - 1, description="Seed of the noise.")] = 0

    def forwards(self, facts: Facts, targets: int) -> int:
        """Return forwards, each backward counted as two."""
        return (1 + 2 * targets) * max(1, self.smooth_samples) + (self.smooth_samples > 0)

    def _gradient(self, probe: Probe, x: Tensor, targets: Targets) -> Trace:
        return probe.trace(
            x,
            wrt=[INPUT],
            objective=lambda outputs, _: probe.facts.score(outputs, self.score)[:, targets(outputs)],
        )

    def _smooth(self, probe: Probe, image: Tensor, targets: Targets) -> Tensor:
        """Return the mean gradient over noisy copies, (T, 3, H, W)."""
        deviation = self.smooth_noise * (image.max() - image.min())
        # Drawn on the CPU, one after another: the same noise on every device and for every chunk size.
        generator = torch.Generator().manual_seed(self.seed)
        total = torch.zeros((len(targets), *image.shape[1:]), device=image.device)
        for start in range(0, self.smooth_samples, _CHUNK):
            count = min(_CHUNK, self.smooth_samples - start)
            noise = torch.stack([torch.randn(image.shape[1:], generator=generator) for _ in range(count)])
            trace = self._gradient(probe, image + deviation * noise.to(image.device), targets)
            total += trace.gradients[INPUT].sum(1)
        return total / self.smooth_samples

    def explain(self, probe: Probe, image: Tensor | None, targets: Targets) -> Explanation:
        """Return one (H, W) map a target: >= 0, or signed."""
        assert image is not None

        if self.smooth_samples == 0:
            trace = self._gradient(probe, image, targets)
            assert trace.outputs is not None
            outputs = trace.outputs[0]
            gradient = trace.gradients[INPUT][:, 0]  # (T, 3, H, W)
        else:
            trace = probe.trace(image)
            assert trace.outputs is not None
            outputs = trace.outputs[0]
            targets = Targets(targets(outputs))  # the clean picture's, not each noisy copy's
            gradient = self._smooth(probe, image, targets)
        chosen = targets(outputs)
        if self.times_input:
            gradient = gradient * image
        signed = self.sign == "signed"
        maps = gradient.sum(1) if signed else gradient.abs().amax(1)
        kind: Kind = "signed" if signed else "positive"
        return Explanation(
            maps=[Map("saliency", maps[i], kind, target=t) for i, t in enumerate(chosen)],
            details={"score": self.score},
            outputs=outputs,
        )

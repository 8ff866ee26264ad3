"""GradientSHAP: Lundberg & Lee 2017; expected gradients: Erion et al. 2021, section 2."""

from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Probe, Rows, Targets
from service.explainers.base import explainer
from service.explainers.baselines import baseline
from service.explainers.fields import Baselines, Colours, Seed
from service.explainers.gradient.inputs import InputGradient
from service.explainers.gradient.paths import Attributions, ends, path_sum
from service.explainers.noise import gaussian


def positions(samples: int, baselines: int, seed: int) -> npt.NDArray[np.float64]:
    """Return how far each sample lies on its way, (samples,) in 0..1; sample k is on the way from baseline k mod B.

    The samples of a baseline have a stratum of 0..1 each, and within these all baselines' samples have one each, so
    that neither any baseline's samples leave a gap nor all samples together.
    """
    random = np.random.default_rng(seed)
    rounds = -(-samples // baselines)
    within = random.permuted(np.tile(np.arange(baselines), (rounds, 1)), axis=1) + random.random((rounds, baselines))
    of = np.arange(samples) % baselines
    return (np.arange(samples) // baselines + within.ravel()[:samples] / baselines) / np.bincount(of)[of]


@explainer(
    "gradient-shap",
    reference="Lundberg & Lee 2017; Erion et al. 2021, section 2",
    requirement="Any differentiable model.",
    cost="for each sample 1 forward and a whole backward per target; and 1 forward per baseline and picture",
    kind="signed",
)
class GradientSHAP(InputGradient):
    """Integrated gradients averaged over several baselines, at random points of the ways from them.

    The mean of (x - b) df/dX at b + u (x - b), u drawn from strata of 0..1. It adds up to f(x) less the mean of the
    baselines' f, which `details.change` has, but for a random error and what `noise` changes;
    `details.completeness_residual` says by how much.
    """

    baseline: Baselines = "mean+black+white+grey+blur"
    samples: Annotated[int, Field(ge=5, le=512, description="Points, over all baselines.")] = 50
    noise: Annotated[
        float,
        Field(ge=0, le=1, description="Deviation of noise on the picture, as a share of the input's value range."),
    ] = 0.0
    seed: Seed = 0
    colours: Colours = "sum"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        return (1 + 2 * targets) * self.samples + 2 + self.baseline.count("+")

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (H, W) map a target, in units of the score: signed, >= 0, or (3, H, W)."""
        starts = torch.cat([baseline(probe.facts, image, name) for name in self.baseline.split("+")])  # (B, C, H, W)
        change, outputs, targets = ends(probe, image, starts, targets, self.score)
        count = len(starts)
        u = torch.from_numpy(positions(self.samples, count, self.seed)).to(image).view(-1, 1, 1, 1)
        of = torch.arange(self.samples, device=image.device) % count
        share = 1 / (count * of.bincount(minlength=count)[of].to(image).view(-1, 1, 1, 1))  # each baseline counts alike
        deviation = self.noise * (image.max() - image.min())

        def way(i: int, j: int) -> Tensor:
            """Return x - b, x with noise, of samples i to j."""
            if self.noise == 0:
                return image - starts[of[i:j]]
            drawn = torch.stack([gaussian(tuple(image.shape[1:]), self.seed, sample) for sample in range(i, j)])
            return image + deviation * drawn.to(image) - starts[of[i:j]]

        def points(i: int, j: int) -> Tensor:
            return starts[of[i:j]] + u[i:j] * way(i, j)

        def changes(i: int, j: int) -> Tensor:
            return share[i:j] * way(i, j)

        values = path_sum(probe, Rows(self.samples, points), changes, targets, self.score)
        found = Attributions(values, change.mean(0), targets, outputs)
        return self._explained(probe.facts, values, self.colours, targets, outputs, details=found.completeness())

"""Integrated gradients: Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks", section 3."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Probe, Targets
from service.explainers.base import explainer
from service.explainers.fields import Baselines, Colours
from service.explainers.gradient.inputs import InputGradient
from service.explainers.gradient.paths import Quadrature, integrated


@explainer(
    "integrated-gradients",
    reference="Sundararajan et al. 2017, section 3, equation 1",
    requirement="Any differentiable model.",
    cost="for each step and baseline 1 forward and a whole backward per target; and 1 forward per baseline and picture",
    kind="signed",
)
class IntegratedGradients(InputGradient):
    """How much each pixel adds to the score on the straight way from a baseline x' to the picture x.

    (x - x') times the mean of df/dX at x' + u (x - x') over u in 0..1. It adds up to f(x) - f(x'), which
    `details.change` has; `details.completeness_residual` says by how much the sum misses it. Both hold for the sum over
    the colours. A pixel that looks like the baseline gets nothing: try several.
    """

    baseline: Baselines = "mean"
    steps: Annotated[int, Field(ge=2, le=512, description="Points on the way from each baseline.")] = 50
    rule: Annotated[
        Quadrature,
        Field(
            description="Where the points lie: Gauss-Legendre nodes, exact where the gradient changes smoothly, or the "
            "middles of equal steps."
        ),
    ] = "gauss-legendre"
    colours: Colours = "sum"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        baselines = 1 + self.baseline.count("+")
        return (1 + 2 * targets) * self.steps * baselines + 1 + baselines

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (H, W) map a target, in units of the score: signed, >= 0, or (3, H, W)."""
        found = integrated(probe, image, targets, self.score, self.baseline, self.rule, self.steps)
        return self._explained(
            probe.facts, found.values, self.colours, found.targets, found.outputs, details=found.completeness()
        )

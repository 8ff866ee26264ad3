"""Blur integrated gradients: Xu et al. 2020, "Attribution in Scale and Space", section 3."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Probe, Rows, Targets
from service.explainers.base import explainer
from service.explainers.baselines import blurred
from service.explainers.fields import Colours
from service.explainers.gradient.inputs import InputGradient
from service.explainers.gradient.paths import Attributions, ends, path_sum


@explainer(
    "blur-ig",
    reference="Xu et al. 2020, section 3",
    requirement="Any differentiable model.",
    cost="for each step 1 forward and a whole backward per target; and 2 forwards",
    kind="signed",
)
class BlurIG(InputGradient):
    """Integrated gradients on the way from a blurred picture to the sharp one: no baseline's colour to choose.

    With x(s) the picture blurred by a Gaussian of deviation s, and scales s_i = `blur` (i / `steps`)^2: the sum over i
    of x(s_i) - x(s_i+1) times df/dX half way between them. The changes add up to x - x(`blur`) exactly, so that the map
    adds up to f(x) - f(x(`blur`)), which `details.change` has; `details.completeness_residual` says by how much it
    misses it. Scales at equal distances would starve the fine ones, at equal ratios the coarse ones. Outside of the
    picture its edges go on, or else the border would seem to matter.
    """

    steps: Annotated[int, Field(ge=4, le=512, description="Steps from the blurred picture to the sharp one.")] = 50
    blur: Annotated[
        float, Field(gt=0, le=100, description="Deviation of the strongest blur, where the way begins, input pixels.")
    ] = 50.0
    colours: Colours = "sum"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        return (1 + 2 * targets) * self.steps + 2

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (H, W) map a target, in units of the score: signed, >= 0, or (3, H, W)."""
        change, outputs, targets = ends(probe, image, blurred(image, self.blur), targets, self.score)

        def pictures(i: int, j: int) -> Tensor:
            """Return the picture at scales i to j, j included: (j - i + 1, C, H, W), the sharper first."""
            return torch.cat([blurred(image, self.blur * (scale / self.steps) ** 2) for scale in range(i, j + 1)])

        def points(i: int, j: int) -> Tensor:
            x = pictures(i, j)
            return (x[:-1] + x[1:]) / 2

        def changes(i: int, j: int) -> Tensor:
            x = pictures(i, j)
            return x[:-1] - x[1:]

        values = path_sum(probe, Rows(self.steps, points), changes, targets, self.score)
        found = Attributions(values, change[0], targets, outputs)
        return self._explained(probe.facts, values, self.colours, targets, outputs, details=found.completeness())

"""Gradient times input: Shrikumar et al. 2016, "Not Just a Black Box"; Ancona et al. 2018, table 1."""

from torch import Tensor

from service.contract import Explanation, Facts, Probe, Targets
from service.explainers.base import explainer
from service.explainers.fields import Colours
from service.explainers.gradient.inputs import InputGradient, clean


@explainer(
    "gradient-x-input",
    reference="Shrikumar et al. 2016; Ancona et al. 2018, table 1",
    requirement="Any differentiable model.",
    cost="1 forward and a whole backward per target",
    kind="signed",
)
class GradientXInput(InputGradient):
    """Each pixel's part of the score, were the network linear: df/dX times X, the normalised input.

    What looks like the model's mean colour is zero there and gets nothing. `details.rest` is f(X) less the sum over all
    pixels and colours: in a network of ReLUs what its biases contribute, and nothing without these.
    """

    colours: Colours = "sum"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        return 1 + 2 * targets

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (H, W) map a target, in units of the score: signed, >= 0, or (3, H, W)."""
        gradient, outputs, targets = clean(probe, image, targets, self.score)
        values = gradient * image
        rest = targets.scores(outputs[None], self.score)[0].double() - values.double().sum((1, 2, 3))
        return self._explained(probe.facts, values, self.colours, targets, outputs, details={"rest": rest.tolist()})

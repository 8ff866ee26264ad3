"""Guided backpropagation: Springenberg et al. 2015, "Striving for Simplicity", section 3.4."""

from torch import Tensor

from service.contract import Explanation, Facts, Probe, Targets
from service.explainers.base import Explainer, explainer
from service.explainers.gradient.guidance import guided, require_rectifiers


@explainer(
    "guided-backprop",
    reference="Springenberg et al. 2015, section 3.4",
    requirement="A differentiable network that rectifies with ReLU or ReLU6.",
    cost="1 forward and a whole backward per target",
    kind="picture",
)
class GuidedBackprop(Explainer):
    """The gradient of which each ReLU passes on only what is positive, where it was open: a sharp picture of edges.

    It is nearly the same for every class, and for random weights: read it as what the network sees at all, not as
    evidence for a class. Smooth activations (SiLU, GELU, gates) have no rectifier and pass their gradient;
    `details.other_activations` names them.
    """

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need at least one rectifier, and a gradient at the input."""
        require_rectifiers(facts, cls.name)
        facts.require_gradient(cls.name)

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        return 1 + 2 * targets

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed picture (3, H, W) a target."""
        found = guided(probe, image, targets)
        return found.explained(self.name, probe.facts, found.gradient)

"""CAM: Zhou et al. 2016, "Learning Deep Features for Discriminative Localization", section 2."""

from torch import Tensor

from service.contract import Explanation, Facts, Probe, Targets
from service.explainers.base import Explainer, explainer
from service.explainers.cam.head import linear_head, weighted_maps


@explainer(
    "cam",
    reference="Zhou et al. 2016, section 2, equation 2",
    requirement="A classifier whose last feature map goes through global average pooling into one linear layer.",
    cost="1 forward",
    kind="signed",
)
class CAM(Explainer):
    """Where the evidence for a class lies: the last feature map weighted by the class's own linear weights.

    M_c(x, y) = sum_k w_k^c A_k(x, y), without ReLU and without bias, so that the mean of the map plus the bias
    is the logit; `details.completeness_residual` shows how exactly. Signed: negative regions speak against the
    class. The layer is fixed by the network's head.
    """

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a proved linear head."""
        linear_head(facts, cls.name, measures=False)

    def passes(self, facts: Facts, targets: int) -> int:
        """Return 1."""
        return 1

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed (h, w) map a target."""
        return weighted_maps(self.name, probe, image, linear_head(probe.facts, self.name, measures=False), targets)

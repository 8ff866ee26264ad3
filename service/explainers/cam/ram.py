"""RAM: Wang & Yang 2017, "Diabetic Retinopathy Detection via Deep Convolutional Networks", section 3.3."""

from torch import Tensor

from service.contract import Explanation, Facts, Probe, Targets
from service.explainers.base import Explainer, explainer
from service.explainers.cam.head import linear_head, weighted_maps


@explainer(
    "ram",
    reference="Wang & Yang 2017, regression activation mapping",
    requirement="A regression whose last feature map goes through global average pooling into one linear layer.",
    cost="1 forward",
    kind="signed",
)
class RAM(Explainer):
    """Which regions raise or lower a regression's value: RAM(x, y) = sum_k w_k A_k(x, y).

    Signed, without bias and without ReLU: the mean of the map plus the bias is the predicted value. Red regions
    push it up, blue ones down.
    """

    takes_targets = False

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a proved linear head on a regression."""
        linear_head(facts, cls.name, measures=True)

    def passes(self, facts: Facts, targets: int) -> int:
        """Return 1."""
        return 1

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed (h, w) map for each regression output."""
        head = linear_head(probe.facts, self.name, measures=True)
        return weighted_maps(self.name, probe, image, head, Targets(probe.facts))

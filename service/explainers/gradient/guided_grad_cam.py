"""Guided Grad-CAM: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks", section 3.2."""

from torch import Tensor
from torch.nn import functional as F

from service.contract import Explanation, Facts, Probe, Targets
from service.explainers.base import explainer
from service.explainers.cam.gradients import GradientCAM
from service.explainers.gradient.guidance import guided, require_rectifiers
from service.explainers.rounding import weighted


@explainer(
    "guided-grad-cam",
    reference="Selvaraju et al. 2017, section 3.2",
    requirement="A layer with spatial feature maps, in a differentiable network that rectifies with ReLU or ReLU6.",
    cost="2 forwards, and two backwards per target, of which one ends at the layer",
    kind="picture",
)
class GuidedGradCAM(GradientCAM):
    """Guided backpropagation's detail where Grad-CAM finds the class.

    The guided gradient, (3, H, W), times Grad-CAM's ReLU(sum_k alpha_k A_k), enlarged bilinearly to the input.
    """

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need at least one rectifier, a layer with maps, and a gradient there and at the input."""
        require_rectifiers(facts, cls.name)
        super().require(facts)
        facts.require_gradient(cls.name)

    def passes(self, facts: Facts, targets: int) -> int:
        """Return an upper bound: one of the two backwards stops at the layer."""
        return 2 + 4 * targets

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed picture (3, H, W) a target."""
        at = self._at_layer(probe, image, targets)
        cam = weighted(at.g.mean((2, 3)), at.a).relu()
        large = F.interpolate(cam[:, None], image.shape[2:], mode="bilinear", align_corners=False)
        found = guided(probe, image, at.targets)
        return found.explained(self.name, probe.facts, found.gradient * large, at.layer)

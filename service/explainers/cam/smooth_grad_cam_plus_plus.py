"""Smooth Grad-CAM++: Omeiza et al. 2019, "Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique"."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Probe, Rows, Targets, Trace, Tracing
from service.explainers.base import explainer
from service.explainers.cam.grad_cam_plus_plus import divisors
from service.explainers.cam.gradients import AtLayer, GradientCAM
from service.explainers.fields import Seed
from service.explainers.noise import noisy
from service.explainers.rounding import weighted


@explainer(
    "smooth-grad-cam++",
    reference="Omeiza et al. 2019, with the weights of Chattopadhay et al. 2018, equations 7 and 19",
    requirement="A layer with spatial feature maps, best behind its ReLU; any head.",
    cost="1 forward; and 1 forward and a backward from the output to the layer per target, for each sample",
)
class SmoothGradCAMPlusPlus(GradientCAM):
    """Grad-CAM++ whose gradients are averaged over noisy copies of the picture.

    With g = dy_c/dA on each copy, m1, m2 and m3 the means of g, g^2 and g^3 over the copies, and A the clean picture's
    maps with sums S_k: alpha = m2 / (2 m2 + S_k m3); w_k = sum_ij alpha ReLU(m1); map = ReLU(sum_k w_k A_k). y_c is the
    logit: exp(y_c), which Grad-CAM++ explains, differs between copies and is no common factor any more. alpha counts
    as 0 where m2 is 0, and where the divisor is zero or less, of which `details` tells as for Grad-CAM++: at positions
    with m1 > 0, and in units of m2. Without noise it is Grad-CAM++.
    """

    samples: Annotated[int, Field(ge=1, le=64, description="Noisy copies to average over.")] = 8
    noise: Annotated[
        float, Field(ge=0, le=1, description="Noise deviation, as a share of the input's value range.")
    ] = 0.15
    seed: Seed = 0

    def passes(self, facts: Facts, targets: int) -> int:
        """Return an upper bound, each backward counted as two: it stops at the layer."""
        return (1 + 2 * targets) * self.samples + 1

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (h, w) map >= 0 a target."""
        layer = probe.facts.layer(self.layer).path
        probe.facts.require_gradient(self.name, layer)
        clean = probe.trace(Rows.of(image), Tracing(layers=(layer,)))
        a, outputs = clean.activations[layer][0], clean.outputs[0]  # (K, h, w)
        targets = targets.fixed(outputs)  # the clean picture's, not each noisy copy's

        def logits(seen: Trace) -> Tensor:
            return targets.scores(seen.outputs)

        def powers(piece: Trace) -> Sequence[Tensor]:
            g = piece.gradients[layer].double()  # (T, n, K, h, w); a third power may lie below float32
            return [(g**power).sum(1) for power in (1, 2, 3)]

        copies = noisy(image, self.samples, self.noise, self.seed)
        trace = probe.trace(copies, Tracing(layers=(layer,), wrt=(layer,)), logits, total=powers)
        m1, m2, m3 = (total / self.samples for total in trace.totals)  # (T, K, h, w)
        divisor = 2 * m2 + a.double().sum((1, 2))[:, None, None] * m3
        defined = divisor > 0
        alpha = torch.where(defined, m2 / torch.where(defined, divisor, 1), 0)
        w = (alpha * m1.relu()).sum((2, 3))  # (T, K)
        cam = weighted(w, a).relu()
        at = AtLayer(layer, a, m1.to(a), outputs, targets)
        return self._explained(probe, at, cam, details=divisors(divisor / m2, m1))

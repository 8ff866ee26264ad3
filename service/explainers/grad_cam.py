"""Grad-CAM: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks", section 3."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from service.explainers.base import Explainer, Explanation, Facts, Kind, Map, Probe, Targets, explainer


@explainer(
    "grad-cam",
    reference="Selvaraju et al. 2017, section 3, equations 1 and 2",
    requirement="A layer with spatial feature maps; any head.",
    cost="1 forward, and a backward from the output to the layer per target",
)
class GradCAM(Explainer):
    """Where a layer's features speak for a class: feature maps weighted by their mean gradient.

    alpha_k = mean over positions of dy_c/dA_k, map = ReLU(sum_k alpha_k A_k), with y_c the logit (or the
    regression's value) before softmax. On a GAP -> linear head it is ReLU(CAM) divided by the number of positions.
    """

    layer: Annotated[
        str | None,
        Field(description="Path of the layer; default: the last spatial feature map.", examples=["layer4"]),
    ] = None
    relu: Annotated[bool, Field(description="Keep only what speaks for the class; false keeps the signed map.")] = True

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a layer with spatial maps; where there is no default one, it has to be named."""
        facts.require_spatial(cls.name)

    def forwards(self, facts: Facts, targets: int) -> int:
        """Return an upper bound: the backward stops at the layer."""
        return 1 + 2 * targets

    def explain(self, probe: Probe, image: Tensor | None, targets: Targets) -> Explanation:
        """Return one (h, w) map a target: >= 0, or signed without `relu`."""
        assert image is not None
        layer = probe.facts.layer(self.layer).path
        trace = probe.trace(
            image, layers=[layer], wrt=[layer], objective=lambda outputs, _: outputs[:, targets(outputs)]
        )
        assert trace.outputs is not None
        a = trace.activations[layer]  # (1, C, h, w)
        alpha = trace.gradients[layer].mean((3, 4))  # (T, 1, C)
        cam = torch.einsum("tnc,nchw->thw", alpha, a)
        if self.relu:
            cam = cam.relu()
        chosen = targets(trace.outputs)
        kind: Kind = "positive" if self.relu else "signed"
        return Explanation(
            maps=[Map("grad-cam", cam[i], kind, target=t, layer=layer) for i, t in enumerate(chosen)],
            details={"score": "logit", "followed_by": probe.facts.layers[layer].followed_by},
            outputs=trace.outputs[0],
        )

"""Score-CAM: Wang et al. 2020, "Score-CAM: Score-Weighted Visual Explanations", section 3.2, Algorithm 1."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from service.explainers.base import Explainer, Explanation, Facts, Map, Probe, Score, Targets, Trace, explainer


def min_max(a: Tensor) -> Tensor:
    """Scale each map of (K, h, w) to 0..1; a constant one becomes zero, in any precision."""
    low, high = a.amin((1, 2), keepdim=True), a.amax((1, 2), keepdim=True)
    span = high - low
    # Branching on the span needs no epsilon, which would underflow in half precision.
    return torch.where(span > 0, (a - low) / torch.where(span > 0, span, 1), 0)


@explainer(
    "score-cam",
    reference="Wang et al. 2020, section 3.2, Algorithm 1",
    requirement="A layer with spatial feature maps; no gradients.",
    cost="1 forward per distinct feature map of the layer (hundreds to thousands)",
)
class ScoreCAM(Explainer):
    """How much each feature map, used as a mask over the picture, raises the class's score.

    H_k = A_k upsampled to the input and scaled to 0..1; CIC_k = f(X * H_k) - f(X_b); weights = softmax over the
    channels of CIC; map = ReLU(sum_k w_k A_k). X is the normalised input, so that mask zero is the mean colour of
    the model's training data. A constant map masks everything. Channels with constant or equal masks share one forward.
    """

    layer: Annotated[
        str | None,
        Field(description="Path of the layer; default: the last spatial feature map.", examples=["layer4"]),
    ] = None
    score: Annotated[Score, Field(description="f: the class's probability after softmax, or its logit.")] = (
        "probability"
    )
    baseline: Annotated[
        Literal["black", "none", "input"],
        Field(description="X_b: the fully masked picture, nothing (CIC is the score itself), or the picture."),
    ] = "black"
    weights: Annotated[
        Literal["softmax", "raw"], Field(description="Softmax of CIC over the channels, or CIC itself.")
    ] = "softmax"
    interpolation: Annotated[
        Literal["bilinear", "bilinear-corners", "bicubic", "nearest"],
        Field(description="How a map is enlarged into a mask; `-corners` aligns the corner points."),
    ] = "bilinear"
    normalise: Annotated[
        Literal["after", "before"],
        Field(description="Scale a mask to 0..1 after enlarging its map, as the paper does, or before."),
    ] = "after"

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a layer with spatial maps; where there is no default one, it has to be named."""
        facts.require_spatial(cls.name)

    def forwards(self, facts: Facts, targets: int) -> int:
        """Return an upper bound: the layer's channels, the clean and the fully masked picture."""
        return facts.layer(self.layer).shape[0] + 2

    def tolerates_reduced_precision(self) -> bool:
        """Allow it for probabilities: the softmax over channels magnifies what rounding does to logits."""
        return self.score == "probability"

    def _masks(self, scaled: Tensor, size: tuple[int, int]) -> Tensor:
        """Return masks (n, H, W) in 0..1 of scaled maps (n, h, w)."""
        mode = self.interpolation.removesuffix("-corners")
        corners = None if mode == "nearest" else mode != self.interpolation
        masks = F.interpolate(scaled[:, None], size, mode=mode, align_corners=corners)[:, 0]
        return min_max(masks) if self.normalise == "after" else masks

    def explain(self, probe: Probe, image: Tensor | None, targets: Targets) -> Explanation:
        """Return one (h, w) map >= 0 a target; `details.cic` holds each channel's CIC."""
        assert image is not None
        layer = probe.facts.layer(self.layer).path
        trace = probe.trace(image, layers=[layer])
        assert trace.outputs is not None
        a = trace.activations[layer][0]  # (K, h, w)
        # A mask does not depend on its map's offset and scale, so equal scaled maps are one mask. The zero map in front
        # is the mask of every constant channel, and gives the fully masked picture itself.
        scaled = torch.cat([torch.zeros_like(a[:1]), min_max(a)])
        masks, mask_of = torch.unique(scaled.flatten(1), dim=0, return_inverse=True)  # (M, h * w), (K + 1,)
        # The strongest channels first, after the zero map: a sketch from the first few is then already telling.
        strength = torch.full((len(masks),), float("-inf"), device=a.device)
        strength.scatter_reduce_(0, mask_of[1:], a.amax((1, 2)), "amax")
        strength[mask_of[0]] = float("inf")
        order = strength.argsort(descending=True, stable=True)
        masks, mask_of = masks[order].view(-1, *a.shape[1:]), order.argsort()[mask_of]
        size = image.shape[2], image.shape[3]

        def rows(i: int, j: int) -> Tensor:
            return image * self._masks(masks[i:j], size)[:, None]

        def combine(outputs: Tensor) -> Explanation:
            return self._combine(probe.facts, layer, trace, mask_of, outputs, targets)

        same = ("score-cam", layer, self.interpolation, self.normalise)
        outputs = probe.scores(len(masks), rows, same=same, image=image, sketch=combine)  # (M, outputs)
        return combine(outputs)

    def _combine(
        self, facts: Facts, layer: str, trace: Trace, mask_of: Tensor, outputs: Tensor, targets: Targets
    ) -> Explanation:
        """Return the maps, given each channel's mask and the outputs of all masks, or of the first ones."""
        assert trace.outputs is not None
        a = trace.activations[layer][0]
        chosen = targets(trace.outputs)
        known = mask_of[1:] < len(outputs)
        f = facts.score(outputs, self.score)[:, chosen]  # (M, T)
        f_clean = facts.score(trace.outputs, self.score)[:, chosen]  # (1, T)
        f_baseline = {"black": f[mask_of[:1]], "input": f_clean, "none": torch.zeros_like(f_clean)}[self.baseline]
        cic = f[mask_of[1:][known]] - f_baseline  # (K, T)
        w = cic.softmax(0) if self.weights == "softmax" else cic
        cam = torch.einsum("kt,khw->thw", w, a[known]).relu()
        distinct = int(mask_of.max()) + 1
        return Explanation(
            maps=[Map("score-cam", cam[i], target=t, layer=layer) for i, t in enumerate(chosen)],
            details={
                "score": self.score,
                "baseline": self.baseline,
                "cic": cic.T.tolist(),
                "channels": len(a),
                "constant_channels": int((mask_of[1:] == mask_of[0]).sum()),
                "distinct_masks": distinct,
            },
            outputs=trace.outputs[0],
            avoided=len(mask_of) - distinct,
        )

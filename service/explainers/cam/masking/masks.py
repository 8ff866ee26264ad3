"""Feature maps as masks over the picture: what Score-CAM and its kin (SS-CAM, IS-CAM) share.

Wang et al. 2020, section 3.2: H_k = A_k upsampled to the input and scaled to 0..1; CIC_k = f(X * H_k) - f(X_b); the map
is ReLU(sum_k w_k A_k) with weights w of the CIC. Kin vary each mask and average f over the variations.

What needs no forward gets none, exactly: a constant map masks everything, so that all of them share one row; a mask
does not depend on its map's offset and scale, so that equal scaled maps are one mask; no mask depends on the target.
Each variation is asked for on its own, so that no more outputs are held at a time than Score-CAM has, and whoever asks
for more variations of the same picture later pays for the new ones alone.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from service.contract import Explanation, Facts, Map, Probe, Rows, Targets, Trace, Tracing, fingerprint
from service.explainers.base import LayerExplainer
from service.explainers.cam.masking.enclosure import telling_order
from service.explainers.fields import Layer, MaskSpace, ScoreOf
from service.explainers.rounding import ROUNDING, steady, weighted

Interpolation = Literal["bilinear", "bilinear-corners", "bicubic", "nearest"]
Normalise = Literal["after", "before"]


def min_max(a: Tensor) -> Tensor:
    """Scale each map of (K, h, w) to 0..1; a constant one becomes zero, in any precision."""
    low, high = a.amin((1, 2), keepdim=True), a.amax((1, 2), keepdim=True)
    span = high - low
    # Branching on the span needs no epsilon, which would underflow in half precision.
    return torch.where(span > 0, (a - low) / torch.where(span > 0, span, 1), 0)


def enlarged(
    scaled: Tensor,
    size: tuple[int, int],
    interpolation: Interpolation = "bilinear",
    normalise: Normalise = "after",
) -> Tensor:
    """Return masks (n, H, W) in 0..1 of maps (n, h, w) in 0..1."""
    mode, corners = interpolation, False
    if interpolation == "bilinear-corners":
        mode, corners = "bilinear", True
    align = {"align_corners": corners} if mode != "nearest" else {}
    masks = F.interpolate(scaled[:, None], size, mode=mode, **align)[:, 0]
    return min_max(masks) if normalise == "after" else masks.clamp(0, 1)  # what is bicubic goes beyond


@dataclass(frozen=True)
class Variation:
    """What becomes of every mask before it multiplies the picture; by default it stays as it is."""

    vary: Callable[[Tensor], Tensor] = lambda masks: masks  # (n, H, W) -> (n, H, W), each mask on its own
    key: Hashable = None  # all that determines it
    keeps_zero: bool = True  # whether a mask of zeros stays one


@dataclass(frozen=True)
class Masks:
    """The distinct masks of a layer's maps, those first that tell most of the map, and which one each channel has."""

    scaled: Tensor  # (M, h, w) in 0..1; the first one is zero, the mask of every constant channel
    of: Tensor  # (K,)

    @staticmethod
    def distinct(a: Tensor) -> "Masks":
        """Return the masks of maps (K, h, w)."""
        scaled = torch.cat([torch.zeros_like(a[:1]), min_max(a)])
        masks, of = torch.unique(scaled.flatten(1), dim=0, return_inverse=True)  # (M, h * w), (K + 1,)
        order = telling_order(_summed(a, of[1:], len(masks)), of[0])
        return Masks(masks[order].view(-1, *a.shape[1:]), order.argsort()[of[1:]])

    def sums(self, a: Tensor) -> Tensor:
        """Return for each mask the sum of those maps of a (K, h, w) whose mask it is, (M, h * w)."""
        return _summed(a, self.of, len(self.scaled))

    @property
    def counts(self) -> Tensor:
        """How many channels have each mask, (M,)."""
        return self.of.bincount(minlength=len(self.scaled))

    @property
    def constant(self) -> int:
        """How many channels are constant."""
        return int((self.of == 0).sum())


def _summed(a: Tensor, of: Tensor, masks: int) -> Tensor:
    """Return the sums (M, h * w) of maps (K, h, w) by the number of their mask (K,)."""
    flat = a.flatten(1)
    return flat.new_zeros(masks, flat.shape[1]).index_add_(0, of, flat)


class MaskedCAM(LayerExplainer):
    """Weighs each map of a layer by what the picture scores behind it."""

    layer: Layer = None
    score: ScoreOf = "probability"
    baseline: Annotated[
        Literal["black", "none", "input"],
        Field(
            description="X_b, whose score is taken off: what a mask of zeros leaves (`black`; under `space: pixels` an "
            "all-black picture), nothing (CIC is the score itself), or the picture. A softmax does not see it: it "
            "changes the map with `weights: raw` alone."
        ),
    ] = "black"
    space: MaskSpace = "pixels"
    weights: Annotated[
        Literal["softmax", "raw"], Field(description="Softmax of CIC over the channels, or CIC itself.")
    ] = "softmax"
    interpolation: Annotated[
        Interpolation, Field(description="How a map is enlarged into a mask; `-corners` aligns the corner points.")
    ] = "bilinear"
    normalise: Annotated[
        Normalise,
        Field(description="Scale a mask to 0..1 after enlarging its map, as the paper does, or before."),
    ] = "after"

    def variations(self) -> Sequence[Variation]:
        """Return what becomes of each mask, one after the other; f is averaged over them."""
        return (Variation(),)

    def passes(self, facts: Facts, targets: int) -> int:
        """Return an upper bound: every channel's mask and a mask of zeros, varied, and the clean picture."""
        return (facts.layer(self.layer).shape[0] + 1) * len(self.variations()) + 1

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (h, w) map >= 0 a target; `details.cic` holds each channel's CIC."""
        layer = probe.facts.layer(self.layer).path
        trace = probe.trace(Rows.of(image), Tracing(layers=(layer,)))
        targets = targets.fixed(trace.outputs)
        masks = Masks.distinct(trace.activations[layer][0])
        shown = fingerprint(image), layer
        f_black = torch.zeros(0)  # (1, T)
        met: list[Tensor] = []  # (M, T) for each variation: f of the picture behind each mask
        count = 0
        for variation in self.variations():
            # Row 0 is the picture behind a mask of zeros: the mask of constant channels, where that is not varied.
            shift = 1 if masks.constant and not variation.keeps_zero else 0

            def combine(outputs: Tensor, shift: int = shift) -> Explanation:
                f = targets.scores(outputs, self.score)  # (rows, T)
                # Variations may differ in how bright they leave the picture, so that a sketch takes whole ones only.
                f_mask = torch.stack(met).mean(0) if met else f[shift:]
                return self._combine(layer, trace, masks, f[:1], f_mask, targets)

            rows = self._rows(probe.facts, image, masks, variation, shift, shown)
            outputs = probe.scores(rows, sketch=combine)
            f = targets.scores(outputs, self.score)
            f_black = f[:1]
            met.append(f[shift:])
            count += rows.count
        found = self._combine(layer, trace, masks, f_black, torch.stack(met).mean(0), targets)
        return replace(found, avoided=(len(masks.of) + 1) * len(met) - count)

    def _rows(
        self, facts: Facts, image: Tensor, masks: Masks, variation: Variation, shift: int, shown: Hashable
    ) -> Rows:
        """Return the picture behind a mask of zeros, and then behind each varied mask from number 1 - `shift` on."""
        size = image.shape[2], image.shape[3]
        nothing = facts.colour((0, 0, 0)).to(image) if self.space == "pixels" else torch.zeros_like(image[0])

        def build(i: int, j: int) -> Tensor:
            used = torch.arange(i - shift, j - shift, device=image.device).clamp(min=0)
            h = variation.vary(enlarged(masks.scaled[used], size, self.interpolation, self.normalise))  # (n, H, W)
            if i == 0:
                h = torch.cat([torch.zeros_like(h[:1]), h[1:]])
            return nothing + (image - nothing) * h[:, None]

        # Maps of one picture may differ in their last bit with what shares its batch, and the order of masks with it.
        order = fingerprint(masks.of)
        key = ("masks", shown, order, self.interpolation, self.normalise, self.space, variation.key)
        return Rows(len(masks.scaled) + shift, build, key)

    def _combine(
        self, layer: str, trace: Trace, masks: Masks, f_black: Tensor, f_mask: Tensor, targets: Targets
    ) -> Explanation:
        """Return the maps, given f (1, T) behind a mask of zeros, and (m, T) behind all masks or the first ones."""
        a = trace.activations[layer][0]  # (K, h, w)
        known = masks.of < len(f_mask)
        f_clean = targets.scores(trace.outputs, self.score)  # (1, T)
        # In float64: where features cancel, the map is made of what weights differ by, which the softmax makes small.
        f = steady(torch.cat([f_clean if self.baseline == "input" else f_black, f_mask]).double())
        f_mask = f[1:]
        cic = f_mask[masks.of[known]] - self._f_baseline(f[:1], f[:1])  # (K, T)
        if self.weights == "softmax":
            w = cic.softmax(0)
            cam = weighted(w.T, a[known], off=(ROUNDING * f_mask.abs().amax(0) * w).T).relu()
        else:
            cam = weighted(cic.T, a[known]).relu()
        return Explanation(
            maps=[Map(self.name, cam[i], target=t, layer=layer) for i, t in enumerate(targets.chosen(f_clean))],
            details=self._details(cic, masks, len(a)),
            outputs=trace.outputs[0],
        )

    def _f_baseline(self, f_black: Tensor, f_clean: Tensor) -> Tensor:
        return {"black": f_black, "input": f_clean, "none": torch.zeros_like(f_clean)}[self.baseline]  # (1, T)

    def _details(self, cic: Tensor, masks: Masks, channels: int) -> dict[str, Any]:
        return {
            "score": self.score,
            "baseline": self.baseline,
            "cic": cic.T.tolist(),
            "channels": channels,
            "constant_channels": masks.constant,
            "distinct_masks": len(masks.scaled),
        }

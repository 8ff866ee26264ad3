"""Score-CAM: Wang et al. 2020, "Score-CAM: Score-Weighted Visual Explanations", section 3.2, Algorithm 1."""

import math
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Map, Probe, Rows, Targets, Trace, Tracing, fingerprint
from service.errors import InvalidParameter, NotApplicable
from service.explainers.base import explainer
from service.explainers.cam.masking.enclosure import Certificate, Enclosure
from service.explainers.cam.masking.masks import MaskedCAM, Masks, Variation

_SURE = 0.75  # of the masks that are enough for certain, that are tried before the rest is planned from their scores
_ROUND = 8  # masks that a step is rounded up to, so that scores which differ in their last bit lead to the same steps


@explainer(
    "score-cam",
    reference="Wang et al. 2020, section 3.2, Algorithm 1",
    requirement="A layer with spatial feature maps; no gradients.",
    cost="1 forward per distinct feature map of the layer (hundreds to thousands); fewer with an `error_bound`",
)
class ScoreCAM(MaskedCAM):
    """How much each feature map, used as a mask over the picture, raises the class's score.

    H_k = A_k upsampled to the input and scaled to 0..1; CIC_k = f(X * H_k) - f(X_b); weights = softmax over the
    channels of CIC; map = ReLU(sum_k w_k A_k). `space` says where the mask multiplies: by default the picture's
    pixels, so that X_b is an all-black picture. A constant map masks everything. Channels with constant or equal
    masks share one forward.

    With an `error_bound` masks are tried, those first that tell most, until no scores that the others could have would
    move a pixel by more; `usage.error_bound` is what was reached then. Of the masks that were not tried the weights
    need not be known, and neither is what all weights are divided by: it is one factor for the whole map, which no heat
    map shows; the exact map is this one times a factor within `details.scale`.
    """

    error_bound: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="How far a pixel may be off, as a share of the map's maximum; 0: all masks are tried. Needs "
            "`score: probability` and `weights: softmax`, and is computed in float32.",
        ),
    ] = 0.0

    def tolerates_reduced_precision(self) -> bool:
        """Allow it for probabilities: the softmax over channels magnifies what rounding does to logits.

        How far a score may be off in less than float32 nothing bounds.
        """
        return self.score == "probability" and not self.error_bound

    def needs_float32(self) -> str | None:
        """Say why an error bound needs it."""
        if not self.error_bound:
            return None
        return "an error bound holds in float32 only: nothing bounds what rounding does to scores in less"

    def settled(self, facts: Facts) -> Self:
        """See `Explainer.settled`; an error bound needs scores and weights that have bounds."""
        found = super().settled(facts)
        found.check_bound(facts)
        return found

    def check_bound(self, facts: Facts) -> None:
        """Raise `InvalidParameter` where an error bound is asked for that there cannot be."""
        if not self.error_bound or self._bounded:
            return
        if self.score != "probability":
            other = "probability" in facts.task.kinds
            reason = f"score {self.score!r} can be any number, so that nothing is known of masks that are not tried"
            remedy = "ask for score 'probability'" if other else f"leave it out: {facts.name} has no probabilities"
        else:
            reason = "raw weights are not divided by their sum, and may cancel each other"
            remedy = "ask for weights 'softmax'"
        raise InvalidParameter.at("/params/error_bound", f"no error bound holds here: {reason}; {remedy}")

    @property
    def _bounded(self) -> bool:
        return self.score == "probability" and self.weights == "softmax"

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (h, w) map >= 0 a target; `details.cic` holds each channel's CIC, or null where it is not known.

        Raises:
            InvalidParameter: an error bound that there cannot be.
            NotApplicable: what the network answers as probabilities is none.
        """
        self.check_bound(probe.facts)
        if not self._bounded:
            return super().explain(probe, image, targets)
        layer = probe.facts.layer(self.layer).path
        trace = probe.trace(Rows.of(image), Tracing(layers=(layer,)))
        targets = targets.fixed(trace.outputs)
        a = trace.activations[layer][0]  # (K, h, w)
        masks = Masks.distinct(a)
        known = Certificate(masks.sums(a), masks.counts, targets.chosen(trace.outputs))
        rows = self._rows(probe.facts, image, masks, Variation(), 0, (fingerprint(image), layer))
        found = trace.outputs[:0]  # (n, K) of the first n masks

        def enclosed(outputs: Tensor) -> tuple[Enclosure, Tensor] | None:
            f, rounding = targets.scores(outputs, self.score), known.rounding(trace.outputs, outputs)
            return (known.enclosure(f, rounding), f) if known.holds(f, rounding) else None

        def sketch(outputs: Tensor, before: Tensor) -> Explanation:
            outputs = torch.cat([before, outputs])
            if (there := enclosed(outputs)) is not None:
                return self._estimated(layer, trace, masks, *there, targets)
            f = targets.scores(outputs, self.score)
            return self._combine(layer, trace, masks, f[:1], f, targets)

        while len(found) < rows.count:
            if self.error_bound and len(found):
                if (there := enclosed(found)) is None:
                    raise NotApplicable(
                        f"{probe.facts.name} answers probabilities outside of 0 to 1, so that nothing bounds those of "
                        "masks that are not tried; leave error_bound out, and see which scale its outputs are said to "
                        "have"
                    )
                if max(there[0].errors) <= self.error_bound:
                    estimated = self._estimated(layer, trace, masks, *there, targets)
                    return replace(estimated, avoided=len(a) + 1 - rows.count)
            rounding = known.rounding(trace.outputs, found)
            part = _part(rows, len(found), self._until(known, targets.scores(found, self.score), rounding, rows.count))
            found = torch.cat([found, probe.scores(part, sketch=partial(sketch, before=found))])
        f = targets.scores(found, self.score)
        exact = self._combine(layer, trace, masks, f[:1], f, targets)
        return replace(exact, avoided=len(a) + 1 - rows.count, error_bound=0.0)

    def _until(self, known: Certificate, f: Tensor, rounding: Tensor, count: int) -> int:
        """Return how many masks to try before looking again."""
        if not self.error_bound:
            return count
        needed = known.needed(f, rounding, self.error_bound)
        step = needed - len(f) if len(f) else math.ceil(_SURE * needed)
        return min(count, len(f) + -(-max(1, step) // _ROUND) * _ROUND)

    def _estimated(
        self, layer: str, trace: Trace, masks: Masks, enclosure: Enclosure, f_mask: Tensor, targets: Targets
    ) -> Explanation:
        """Return the maps in the middle of what is possible, given f (n, T) behind the first masks."""
        a = trace.activations[layer][0]
        maps = enclosure.maps.float().view(-1, *a.shape[1:])
        f_clean = targets.scores(trace.outputs, self.score)  # (1, T)
        cic = f_mask[masks.of.clamp(max=len(f_mask) - 1)] - self._f_baseline(f_mask[:1], f_clean)  # (K, T)
        tried = masks.of < len(f_mask)
        details: dict[str, Any] = self._details(cic, masks, len(a)) | {
            "cic": [[c if met else None for c, met in zip(own, tried.tolist(), strict=True)] for own in cic.T.tolist()],
            "masks_tried": len(f_mask),
            "scale": enclosure.scale,
        }
        errors = enclosure.errors
        return Explanation(
            maps=[
                Map(self.name, one, target=t, layer=layer) for one, t in zip(maps, targets.chosen(f_clean), strict=True)
            ],
            details=details,
            outputs=trace.outputs[0],
            exact=False,
            error_bound=max(errors) if math.isfinite(max(errors)) else None,
        )


def _part(rows: Rows, i: int, j: int) -> Rows:
    """Return some of the rows; all of them are known by the key that they have."""
    if (i, j) == (0, rows.count):
        return rows
    return Rows(j - i, lambda a, b: rows.build(i + a, i + b), (rows.key, i, j))

"""Methods that hide segments of the picture: how it is cut, what stands there instead, and how maps are laid out.

The outputs of a row hang on the picture, its cut, what is shown instead and which segments are: the key that tables are
kept under says that and no more, so that methods which ask for the same rows find them answered.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from service.contract import Explanation, Facts, Map, Probe, Rows, Targets, fingerprint
from service.explainers.base import Explainer
from service.explainers.baselines import baseline
from service.explainers.fields import Count, HiddenSegment, ScoreOf, Segments
from service.explainers.rounding import steady
from service.explainers.segments import cut, grid

Estimate = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Any], bool]]
"""(switches (n, M), scores (n, T) in double) -> (weights (M, T), details, whether exact), of the first n rows."""


class SegmentMethod(Explainer):
    """A method that says of each segment how much the score owes to it."""

    score: ScoreOf = "probability"
    segments: Segments = "slic"
    count: Count = 50
    hidden: HiddenSegment = "mean"

    def most(self, facts: Facts) -> int:
        """Return how many segments there are at most."""
        rows, columns = grid(facts.input_size, self.count)
        return rows * columns

    def labels(self, facts: Facts, image: Tensor) -> Tensor:
        """Return the number (H, W) of each pixel's segment, on the CPU."""
        return cut(facts.shown(image)[0], self.segments, self.count)

    def filling(self, facts: Facts, image: Tensor, labels: Tensor) -> Tensor:
        """Return what hidden segments show, (C, H, W)."""
        if self.hidden != "segment":
            return baseline(facts, image, self.hidden)[0]
        flat, pixels = labels.flatten(), image[0].flatten(1).double().cpu()
        means = torch.stack([torch.bincount(flat, channel) for channel in pixels]) / torch.bincount(flat)
        return means[:, labels].to(image)

    def switched(self, facts: Facts, image: Tensor, labels: Tensor, on: Tensor) -> Rows:
        """Return the picture with segments shown, as rows on (n, M) of switches say."""
        filling, there, shown = self.filling(facts, image, labels), labels.to(image.device), on.to(image.device)

        def build(i: int, j: int) -> Tensor:
            return torch.where(shown[i:j][:, there][:, None], image, filling)

        switched = hashlib.sha256(on.numpy().tobytes()).digest()
        key = ("segments", fingerprint(image), self.segments, self.count, self.hidden, switched)
        return Rows(len(on), build, key)

    def estimated(
        self, probe: Probe, image: Tensor, targets: Targets, labels: Tensor, on: Tensor, estimate: Estimate
    ) -> Explanation:
        """Ask for rows of switches, the clean picture first, and lay out what is made of them, or of the first few."""

        def combine(outputs: Tensor) -> Explanation:
            chosen = targets.fixed(outputs)
            f = steady(chosen.scores(outputs, self.score).double().cpu())
            weights, details, exact = estimate(on[: len(f)], f)
            return replace(self.laid_out(labels, weights, details, outputs[0], chosen), exact=exact)

        return combine(probe.scores(self.switched(probe.facts, image, labels, on), sketch=combine))

    def laid_out(
        self, labels: Tensor, weights: Tensor, details: dict[str, Any], outputs: Tensor, targets: Targets
    ) -> Explanation:
        """Return weights (M, T) as maps (H, W), and as numbers."""
        maps = weights.T.float()[:, labels].to(outputs.device)
        chosen = targets.chosen(outputs)
        found = Explanation(
            maps=[Map(self.name, maps[i], "regions", target=t, interpolation="nearest") for i, t in enumerate(chosen)],
            details={"score": self.score, "segments": len(weights), "weights": weights.T.tolist(), **details},
            outputs=outputs,
        )
        if "residual" not in details:
            return found
        promises = "its segments' values add up to f(x) - f(x'), x' the picture with all of them hidden"
        return found.adding_up(promises, details["change"], [-lost for lost in details["residual"]])


def explained(y: Tensor, fitted: Tensor, w: Tensor) -> list[float | None]:
    """Return R^2 of each column of values (n, T) under weights (n,); None where they do not vary.

    1 - sum w (y - fitted)^2 / sum w (y - mean)^2, with the weighted mean.
    """
    w = w[:, None]
    total = (w * (y - (w * y).sum(0) / w.sum()) ** 2).sum(0)
    left = (w * (y - fitted) ** 2).sum(0)
    flat = total <= 1e-12 * (w * y**2).sum(0)  # no more than rounding
    return [None if none else 1 - float(a / b) for none, a, b in zip(flat, left, total, strict=True)]

"""Guided integrated gradients: Kapishnikov et al. 2021, "Guided Integrated Gradients", section 3, algorithm 1."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from service.contract import INPUT, Explanation, Facts, Probe, Rows, Targets, Trace
from service.explainers.base import explainer
from service.explainers.baselines import baseline
from service.explainers.fields import Baseline, Colours
from service.explainers.gradient.inputs import AT_INPUT, InputGradient
from service.explainers.gradient.paths import Attributions, ends


class Walk:
    """A way from one picture to another that moves the values first to which the score is least sensitive.

    How far a value has come is its share of its own way, 0..1. After step k of n the values have, all together, the
    share k / n of their ways behind them, and none is further from that than the band. All is flat, (N,), and in double
    but for the gradients.
    """

    def __init__(self, start: Tensor, end: Tensor, fraction: float, band: float) -> None:
        self.start = start.double().flatten()
        self.way = end.double().flatten() - self.start
        self.share = torch.zeros_like(self.way)  # of its way that each value has behind it
        self.length = self.way.abs()
        self.fraction, self.band = fraction, band

    @property
    def point(self) -> Tensor:
        """Where the walk is, (N,)."""
        return self.start + self.share * self.way

    def step(self, gradient: Tensor, behind: float) -> Tensor:
        """Walk on until the share `behind` of all ways is done, and return how far each value went, (N,).

        Values behind the band are brought to its lower end first. Then those with the smallest gradients go to its
        upper end, a `fraction` of all values at a time, with whoever has the same gradient; the last of these groups
        goes only as far as is still missing.
        """
        low, high = max(behind - self.band, 0.0), min(behind + self.band, 1.0)
        before, share = self.share, self.share.clamp(min=low)
        missing = self.length.sum() * behind - (self.length * share).sum()
        free = ((share < high) & (self.length > 0)).nonzero()[:, 0]
        size, order = gradient.abs()[free].sort()
        free = free[order]
        reach = (self.length[free] * (high - share[free])).cumsum(0)  # what is gained by moving all up to there
        first, group = 0, int(self.fraction * (len(self.way) - 1)) + 1
        while first < len(free) and missing > 0:
            last = min(first + group, len(free))
            last = int(torch.searchsorted(size, size[last - 1], right=True))
            gained = reach[last - 1] - (reach[first - 1] if first else 0)
            part = (missing / gained).clamp(max=1)
            moved = free[first:last]
            share[moved] = torch.lerp(share[moved], torch.full_like(share[moved], high), part)
            first, missing = last, missing - part * gained
        self.share = share
        return (share - before) * self.way


@explainer(
    "guided-ig",
    reference="Kapishnikov et al. 2021, section 3, algorithm 1",
    requirement="Any differentiable model.",
    cost="for each step, one after the other, 1 forward and a whole backward per target; and 2 forwards",
    kind="signed",
)
class GuidedIG(InputGradient):
    """Integrated gradients on a way of its own for each target: the pixels that matter least are moved first.

    Each step moves the values with the smallest df/dX, and adds up (how far they moved) times df/dX where the step
    began. No value is further than `band` from where it would be on the straight way; with 0 it is the straight way.
    The map adds up to f(x) - f(x'), which `details.change` has; `details.completeness_residual` says by how much it
    misses it.
    """

    baseline: Baseline = "mean"
    steps: Annotated[int, Field(ge=4, le=512, description="Steps on the way, each waiting for the one before.")] = 100
    fraction: Annotated[
        float, Field(ge=0.01, le=1, description="Share of all values that are moved at a time, within a step.")
    ] = 0.25
    band: Annotated[
        float, Field(ge=0, le=1, description="How far from the straight way a value may be, as a share of its way.")
    ] = 0.02
    colours: Colours = "sum"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        return 3 * targets * self.steps + 2

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (H, W) map a target, in units of the score: signed, >= 0, or (3, H, W)."""
        start = baseline(probe.facts, image, self.baseline)
        change, outputs, targets = ends(probe, image, start, targets, self.score)
        walks = [Walk(start, image, self.fraction, self.band) for _ in targets.chosen(outputs)]
        values = torch.zeros(len(walks), start.numel(), dtype=torch.float64, device=image.device)

        def own(piece: Trace) -> Tensor:
            """Return for each row, which is where a target's walk is, that target's score: (n, 1)."""
            scores = targets.scores(piece.outputs, self.score)
            rows = torch.arange(len(scores), device=scores.device)
            return scores[rows, piece.first + rows][:, None]

        for step in range(self.steps):
            points = torch.stack([walk.point for walk in walks]).view(-1, *image.shape[1:]).float()
            gradients = probe.trace(Rows.of(points), AT_INPUT, own).gradients[INPUT][0].flatten(1)  # (T, N)
            for walk, value, gradient in zip(walks, values, gradients, strict=True):
                value += walk.step(gradient, (step + 1) / self.steps) * gradient
        found = Attributions(values.view(-1, *image.shape[1:]), change[0], targets, outputs)
        return self._explained(probe.facts, found.values, self.colours, targets, outputs, details=found.completeness())

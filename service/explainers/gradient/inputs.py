"""What methods share that differentiate a score at the input."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from service.contract import (
    INPUT,
    Explanation,
    Facts,
    Kind,
    Map,
    Objective,
    Probe,
    Rows,
    Score,
    Targets,
    Trace,
    Tracing,
)
from service.explainers.base import Explainer
from service.explainers.fields import Colours, ScoreOf
from service.explainers.noise import noisy

AT_INPUT = Tracing(wrt=(INPUT,))
"""One way to ask for all of them, so that whoever differentiates at the input shares batches."""


def scored(targets: Targets, score: Score) -> Objective:
    """Return the objective that differentiates each target's score; the targets must be fixed where rows differ."""
    return lambda seen: targets.scores(seen.outputs, score)


def clean(probe: Probe, image: Tensor, targets: Targets, score: Score) -> tuple[Tensor, Tensor, Targets]:
    """Differentiate at the picture itself: the gradients (T, C, H, W), the outputs (K,), and the targets, fixed."""
    trace = probe.trace(Rows.of(image), AT_INPUT, scored(targets, score))
    outputs = trace.outputs[0]
    return trace.gradients[INPUT][:, 0], outputs, targets.fixed(outputs)


def outputs_of(probe: Probe, rows: Rows) -> Tensor:
    """Return the outputs (N, K) of rows, in the arithmetic in which they are differentiated."""
    return probe.trace(rows, Tracing()).outputs


def smoothed(
    probe: Probe, image: Tensor, targets: Targets, score: Score, samples: int, noise: float, seed: int
) -> Tensor:
    """Return the mean gradient (T, C, H, W) over noisy copies of a picture, summed in double.

    Args:
        probe: the network.
        image: the picture, (1, C, H, W).
        targets: fixed on the clean picture, as each noisy copy has its own best classes.
        score: what is differentiated.
        samples: how many copies.
        noise: the noise's deviation, as a share of the picture's value range.
        seed: of the noise.
    """

    def total(piece: Trace) -> Sequence[Tensor]:
        return [piece.gradients[INPUT].sum(1, dtype=torch.float64)]

    trace = probe.trace(noisy(image, samples, noise, seed), AT_INPUT, scored(targets, score), total=total)
    return (trace.totals[0] / samples).to(image)


def over_colours(values: Tensor, colours: Colours) -> Tensor:
    """Return what pixels show (T, H, W) of values on their channels (T, C, H, W); `keep` keeps these."""
    if colours == "keep":
        return values
    return values.sum(1) if colours == "sum" else values.abs().amax(1)


CHANGE = "its sum over places and colours is f(x) - f(x'), what the score changes by from the baseline x'"
BEFORE = f"before its colours are joined, left out or repeated, {CHANGE}"


def change_promised(facts: Facts, colours: Colours) -> str:
    """Return what values at the input add up to, whose colours are shown so: a map may not add up to it itself.

    A picture of planes has those of red, green and blue: grey is in it three times, opacity is not.
    """
    whole = colours == "sum" or (colours == "keep" and sorted(facts.channels) == ["b", "g", "r"])
    return CHANGE if whole else BEFORE


class InputGradient(Explainer):
    """A method that differentiates at the input."""

    score: ScoreOf = "logit"

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a gradient at the input."""
        facts.require_gradient(cls.name)

    def _explained(
        self,
        facts: Facts,
        values: Tensor,
        colours: Colours,
        targets: Targets,
        outputs: Tensor,
        *,
        positive: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> Explanation:
        """Return values (T, C, H, W) at the input, all of them >= 0 where `positive`, as an explanation."""
        kind: Kind = "positive" if positive or colours == "absmax" else "signed"
        shown = over_colours(values, colours).float()
        if colours == "keep":
            kind, shown = "picture", facts.coloured(shown)
        told = {"score": self.score, **(details or {})}
        found = Explanation(
            maps=[Map(self.name, shown[i], kind, target=t) for i, t in enumerate(targets.chosen(outputs))],
            details=told,
            outputs=outputs,
        )
        if "completeness_residual" not in told:
            return found
        return found.adding_up(change_promised(facts, colours), told["change"], told["completeness_residual"])

"""Partition SHAP: Owen values (Owen 1977) over a tree of rectangles, as the package shap has for pictures."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from service.contract import Box, Explanation, Facts, Map, Probe, Rows, Targets, fingerprint
from service.explainers.base import Explainer, explainer
from service.explainers.baselines import baseline
from service.explainers.fields import Hidden, ScoreOf

MOST_AT_ONCE = 16  # nodes that are split together: two rows each, which fill a batch


@dataclass(frozen=True)
class Node:
    """A rectangle that shows after its context does, in a share of all orders."""

    box: Box
    context: tuple[Box, ...]  # disjoint rectangles that show already
    weight: float  # the share of the orders
    before: Tensor  # f of the context, (T,)
    after: Tensor  # f of the context and the rectangle

    @property
    def value(self) -> Tensor:
        """What the rectangle adds, (T,)."""
        return self.weight * (self.after - self.before)

    @property
    def area(self) -> int:
        """The rectangle's pixels."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)

    @property
    def urgency(self) -> float:
        """How much is still spread over how many pixels, for the target of which it is most."""
        return float(self.value.abs().max()) * self.area

    def halves(self) -> tuple[Box, Box]:
        """Return the rectangle's two halves, cut across its longer side."""
        x0, y0, x1, y1 = self.box
        if x1 - x0 > y1 - y0:
            middle = (x0 + x1) // 2
            return (x0, y0, middle, y1), (middle, y0, x1, y1)
        middle = (y0 + y1) // 2
        return (x0, y0, x1, middle), (x0, middle, x1, y1)

    def split(self, one_first: Tensor, other_first: Tensor) -> list["Node"]:
        """Return what becomes of the node, given f (T,) of the context with either half.

        Each half comes first in one half of the orders, and second in the others.
        """
        one, other = self.halves()
        weight, context = self.weight / 2, self.context
        return [
            Node(one, context, weight, self.before, one_first),
            Node(other, context, weight, self.before, other_first),
            Node(one, (*context, other), weight, other_first, self.after),
            Node(other, (*context, one), weight, one_first, self.after),
        ]


def most_urgent(nodes: Sequence[Node], splits: int) -> list[int]:
    """Return which nodes are split next: the most urgent half of those that can be, but no more than a batch takes."""
    whole = [i for i, node in enumerate(nodes) if node.area > 1]
    ordered = sorted(whole, key=lambda i: (-nodes[i].urgency, i))
    return sorted(ordered[: min(splits, MOST_AT_ONCE, max(1, len(whole) // 2))])


@explainer(
    "partition-shap",
    reference="Owen 1977; Lundberg's package shap (PartitionExplainer)",
    requirement="Any model; only its outputs are used.",
    cost="evaluations forwards",
    kind="regions",
)
class PartitionSHAP(Explainer):
    """Owen values over a tree of rectangles: what each adds to the score, over all orders that the tree allows.

    The picture is halved again and again, across the longer side. A rectangle's halves show in both orders, in each
    context that it met itself, so that values always add up to f(X) - f(hidden); down to single pixels they would be
    Owen values exactly. Of all rectangles that could be halved those go first whose |value| times area is largest (over
    the targets), many in each round, so that batches are full; what is not halved any more spreads its value evenly.
    `details.residual` is what rounding leaves of the sum.
    """

    score: ScoreOf = "probability"
    evaluations: Annotated[
        int, Field(ge=16, le=8192, description="Pictures with some rectangles hidden; each halving takes two.")
    ] = 500
    hidden: Hidden = "blur"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return the evaluations, the clean picture and the hidden one among them."""
        return self.evaluations

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed (H, W) map a target, in units of the score for each pixel."""
        height, width = image.shape[2:]
        whole = (0, 0, width, height)
        ends = probe.scores(self._rows(probe.facts, image, [(whole,), ()]))
        targets = targets.fixed(ends)
        clean, hidden = targets.scores(ends, self.score).double().cpu()
        nodes, spent = [Node(whole, (), 1.0, hidden, clean)], 2

        def explanation() -> Explanation:
            return self._explanation(nodes, spent, ends, targets, (height, width))

        while splits := (self.evaluations - spent) // 2:
            chosen = most_urgent(nodes, splits)
            if not chosen:  # all are single pixels
                break
            shown = [(*nodes[i].context, half) for i in chosen for half in nodes[i].halves()]
            outputs = probe.scores(self._rows(probe.facts, image, shown), sketch=lambda _: explanation())
            f = targets.scores(torch.cat([ends[:1], outputs]), self.score).double().cpu()[1:]
            spent += len(shown)
            parted = {i: nodes[i].split(f[2 * k], f[2 * k + 1]) for k, i in enumerate(chosen)}
            nodes = [part for i, node in enumerate(nodes) for part in parted.get(i, [node])]
        return explanation()

    def _rows(self, facts: Facts, image: Tensor, shown: Sequence[tuple[Box, ...]]) -> Rows:
        """Return pictures that show some rectangles each, and their filling elsewhere."""
        filling = baseline(facts, image, self.hidden)

        def build(i: int, j: int) -> Tensor:
            built = filling.repeat(j - i, 1, 1, 1)
            for row, boxes in zip(built, shown[i:j], strict=True):
                for x0, y0, x1, y1 in boxes:
                    row[:, y0:y1, x0:x1] = image[0, :, y0:y1, x0:x1]
            return built

        boxes = hashlib.sha256(repr(shown).encode()).digest()
        return Rows(len(shown), build, ("rectangles", fingerprint(image), self.hidden, boxes))

    def _explanation(
        self, nodes: Sequence[Node], spent: int, ends: Tensor, targets: Targets, size: tuple[int, int]
    ) -> Explanation:
        """Spread each node's value over its rectangle."""
        clean, hidden = targets.scores(ends, self.score).double().cpu()
        maps = torch.zeros(len(clean), *size, dtype=torch.float64)
        for node in nodes:
            x0, y0, x1, y1 = node.box
            maps[:, y0:y1, x0:x1] += (node.value / node.area)[:, None, None]
        change = clean - hidden
        return Explanation(
            maps=[
                Map("partition-shap", maps[i].float().to(ends.device), "regions", target=t, interpolation="nearest")
                for i, t in enumerate(targets.chosen(ends))
            ],
            details={
                "score": self.score,
                "evaluations": spent,
                "rectangles": len({node.box for node in nodes}),
                "change": change.tolist(),
                "residual": (change - maps.sum((1, 2))).tolist(),
            },
            outputs=ends[0],
            exact=all(node.area == 1 for node in nodes),
        )

"""Partition SHAP: Owen values (Owen 1977) over a tree of rectangles, as the package shap has for pictures."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from service.contract import Box, Explanation, Facts, Map, Probe, Rows, Targets, fingerprint
from service.explainers.base import Explainer, explainer
from service.explainers.baselines import baseline
from service.explainers.fields import Hidden, ScoreOf
from service.explainers.rounding import steady

MOST_AT_ONCE = 16  # nodes of a tree that are split together: two rows each, which fill a batch
Shown = tuple[Box, ...]  # disjoint rectangles of the picture; the filling shows elsewhere


@dataclass(frozen=True)
class Node:
    """A rectangle that shows after its context does, in a share of all orders."""

    box: Box
    context: tuple[Box, ...]  # disjoint rectangles that show already
    weight: float  # the share of the orders
    before: float  # f of the context
    after: float  # f of the context and the rectangle

    @property
    def value(self) -> float:
        """What the rectangle adds."""
        return self.weight * (self.after - self.before)

    @property
    def area(self) -> int:
        """The rectangle's pixels."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)

    @property
    def urgency(self) -> float:
        """How much is still spread over how many pixels."""
        return abs(self.value) * self.area

    def halves(self) -> tuple[Box, Box]:
        """Return the rectangle's two halves, cut across its longer side."""
        x0, y0, x1, y1 = self.box
        if x1 - x0 > y1 - y0:
            middle = (x0 + x1) // 2
            return (x0, y0, middle, y1), (middle, y0, x1, y1)
        middle = (y0 + y1) // 2
        return (x0, y0, x1, middle), (x0, middle, x1, y1)

    def shown(self) -> list[Shown]:
        """Return what shows where the context meets either half."""
        return [tuple(sorted((*self.context, half))) for half in self.halves()]

    def split(self, one_first: float, other_first: float) -> list["Node"]:
        """Return what becomes of the node, given f of the context with either half.

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


def split_up(nodes: Sequence[Node], chosen: Sequence[int], f: Mapping[Shown, float]) -> list[Node]:
    """Return all nodes of a tree, the chosen ones split, given f of what they show."""
    found: list[Node] = []
    for i, node in enumerate(nodes):
        found += node.split(*(f[shown] for shown in node.shown())) if i in chosen else [node]
    return found


@explainer(
    "partition-shap",
    reference="Owen 1977; Lundberg's package shap (PartitionExplainer)",
    requirement="Any model; only its outputs are used.",
    cost="evaluations forwards per target, less what targets share",
    kind="regions",
)
class PartitionSHAP(Explainer):
    """Owen values over a tree of rectangles: what each adds to the score, over all orders that the tree allows.

    The picture is halved again and again, across the longer side. A rectangle's halves show in both orders, in each
    context that it met itself, so that values always add up to f(X) - f(hidden); down to single pixels they would be
    Owen values exactly. Of all rectangles that could be halved those go first whose |value| times area is largest,
    many in each round, so that batches are full; what is not halved any more spreads its value evenly. Each target is
    halved where its own values are large, so that its map does not depend on what else is asked; pictures that several
    targets ask for are run once. `details.residual` is what rounding leaves of the sum.
    """

    score: ScoreOf = "probability"
    evaluations: Annotated[
        int,
        Field(ge=16, le=8192, description="Pictures with some rectangles hidden, per target; each halving takes two."),
    ] = 500
    hidden: Hidden = "blur"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return the evaluations, the clean picture and the hidden one among them."""
        return 2 + targets * (self.evaluations - 2)

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed (H, W) map a target, in units of the score for each pixel."""
        height, width = image.shape[2:]
        whole = (0, 0, width, height)
        ends = probe.scores(self._rows(probe.facts, image, [(whole,), ()]))
        targets = targets.fixed(ends)
        clean, hidden = steady(targets.scores(ends, self.score).double()).tolist()
        trees = [[Node(whole, (), 1.0, before, after)] for before, after in zip(hidden, clean, strict=True)]
        spent, avoided = [2] * len(trees), 0

        def explanation() -> Explanation:
            return self._explanation(trees, spent, ends, targets, (height, width), avoided)

        while True:
            chosen = [
                most_urgent(nodes, (self.evaluations - used) // 2) for nodes, used in zip(trees, spent, strict=True)
            ]
            asked = [
                shown for nodes, some in zip(trees, chosen, strict=True) for i in some for shown in nodes[i].shown()
            ]
            if not asked:  # all are spent, or all that is left are single pixels
                break
            rows = list(dict.fromkeys(asked))
            outputs = probe.scores(self._rows(probe.facts, image, rows), sketch=lambda _: explanation())
            f = steady(targets.scores(torch.cat([ends, outputs]), self.score).double())[2:].T.tolist()
            trees = [
                split_up(nodes, some, dict(zip(rows, values, strict=True)))
                for nodes, some, values in zip(trees, chosen, f, strict=True)
            ]
            spent = [used + 2 * len(some) for used, some in zip(spent, chosen, strict=True)]
            avoided += len(asked) - len(rows)
        return explanation()

    def _rows(self, facts: Facts, image: Tensor, shown: Sequence[Shown]) -> Rows:
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
        self,
        trees: Sequence[Sequence[Node]],
        spent: Sequence[int],
        ends: Tensor,
        targets: Targets,
        size: tuple[int, int],
        avoided: int,
    ) -> Explanation:
        """Spread each node's value over its rectangle."""
        clean, hidden = steady(targets.scores(ends, self.score).double()).cpu()
        maps = torch.zeros(len(trees), *size, dtype=torch.float64)
        for spread, nodes in zip(maps, trees, strict=True):
            for node in nodes:
                x0, y0, x1, y1 = node.box
                spread[y0:y1, x0:x1] += node.value / node.area
        change = clean - hidden
        missing = maps.sum((1, 2)) - change
        found = Explanation(
            maps=[
                Map("partition-shap", maps[i].float().to(ends.device), "regions", target=t, interpolation="nearest")
                for i, t in enumerate(targets.chosen(ends))
            ],
            details={
                "score": self.score,
                "evaluations": list(spent),
                "rectangles": [len({node.box for node in nodes}) for nodes in trees],
                "change": change.tolist(),
                "residual": (-missing).tolist(),
            },
            outputs=ends[0],
            avoided=avoided,
            exact=all(node.area == 1 for nodes in trees for node in nodes),
        )
        promises = "its sum is f(x) - f(x'), x' the picture with all of it hidden"
        return found.adding_up(promises, change.tolist(), missing.tolist())

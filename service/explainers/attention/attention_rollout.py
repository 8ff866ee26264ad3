"""Attention rollout: Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3."""

import torch
from torch import Tensor

from service.contract import Explanation, Facts, Map, Probe, Rows, Targets, Tracing
from service.explainers.attention.tokens import (
    ChainExplainer,
    Heads,
    as_map,
    blocks,
    joined,
    placed,
    read_from,
    reading,
    start,
)
from service.explainers.base import explainer


@explainer(
    "attention-rollout",
    reference="Abnar & Zuidema 2020, section 3, equation 1",
    requirement="A vision transformer whose attentions span all tokens, each block behind the one before it.",
    cost="1 forward",
)
class AttentionRollout(ChainExplainer):
    """Which patches the class token is made of after all blocks, as far as attention alone tells.

    Each block makes a token half of itself, by its skip connection, and half of what it attends to: R = (A + I) R, the
    rows of A + I scaled to add up to 1, from R = I at the first block. The map is the class token's row; where outputs
    are read from the patches, as their mean, it is the mean of their rows. It knows no class.

    `details.read` says which rows are taken; `details.row_sum` is 1 but for rounding; `details.placed` is how
    much of it patches have, the rest being that of tokens without a place.
    """

    takes_targets = False

    heads: Heads = "mean"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return one."""
        return 1

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (h, w) map >= 0, a patch a number, in shares of 1."""
        self.require(probe.facts)
        there = blocks(probe.facts)
        first, *_, last = (*there, *there)
        trace = probe.trace(Rows.of(image), Tracing(layers=tuple(there)))
        r = start(probe.facts, first, image.device)
        for path in there:
            a = joined(trace.activations[path][0], self.heads)
            a = a + torch.eye(len(a), device=a.device)
            r = a / a.sum(1, keepdim=True) @ r
        row = read_from(r, there[last])
        return Explanation(
            maps=[Map(self.name, as_map(row, there[last]), layer=last)],
            details={
                "blocks": len(there),
                "read": reading(there[last]),
                "row_sum": float(row.sum()),
                "placed": placed(row, there[last]),
            },
            outputs=trace.outputs[0],
        )

"""Attention as it is: Dosovitskiy et al. 2021 show it, after Vaswani et al. 2017, section 3.2.1."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Map, Probe, Rows, Targets, Tracing
from service.errors import InvalidParameter
from service.explainers.attention.tokens import (
    AttentionExplainer,
    Joined,
    as_map,
    blocks,
    joined,
    placed,
    read_from,
    reading,
)
from service.explainers.base import explainer


@explainer(
    "attention",
    reference="Vaswani et al. 2017, section 3.2.1, equation 1; Dosovitskiy et al. 2021, section 4.5",
    requirement="A vision transformer whose attention spans all tokens.",
    cost="1 forward",
)
class RawAttention(AttentionExplainer):
    """Where one block looks: the attention that the class token pays to each patch, softmax(q k^T / sqrt(d)).

    Where outputs are not read from a class token but from the patches, as their mean, it is the mean over all patches.
    Attention knows no class, and says of the last block alone where it takes from, not what earlier ones had brought
    there.

    `details.read` says whose attention it is, and `details.placed` how much of it patches get: the rest goes
    to tokens without a place, such as the class token itself or registers.
    """

    takes_targets = False

    block: Annotated[
        int | None, Field(ge=0, le=1023, description="Which block, from 0; default: the last one.", examples=[0, 11])
    ] = None
    heads: Annotated[
        Joined | Annotated[int, Field(ge=0, le=1023)],
        Field(description="How the block's heads are joined: their mean, maximum or minimum; or one of them, from 0."),
    ] = "mean"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return one."""
        return 1

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (h, w) map >= 0, a patch a number, in shares of 1."""
        self.require(probe.facts)
        there = list(blocks(probe.facts))
        block = len(there) - 1 if self.block is None else self.block
        if block >= len(there):
            raise InvalidParameter.at(
                "/params/block", f"block {block} is out of range: {probe.facts.name} has blocks 0 to {len(there) - 1}"
            )
        path = there[block]
        count, attention = probe.facts.layers[path].shape[0], blocks(probe.facts)[path]
        if isinstance(self.heads, int) and self.heads >= count:
            raise InvalidParameter.at(
                "/params/heads", f"head {self.heads} is out of range: the block has heads 0 to {count - 1}"
            )
        trace = probe.trace(Rows.of(image), Tracing(layers=(path,)))
        a = trace.activations[path][0]  # (heads, T, T)
        row = read_from(a[self.heads] if isinstance(self.heads, int) else joined(a, self.heads), attention)
        return Explanation(
            maps=[Map(self.name, as_map(row, attention), layer=path)],
            details={
                "block": block,
                "heads": count,
                "tokens": len(row),
                "read": reading(attention),
                "placed": placed(row, attention),
            },
            outputs=trace.outputs[0],
        )

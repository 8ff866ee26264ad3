"""Attention relevance: Chefer et al. 2021, "Generic Attention-model Explainability", section 3.1."""

from torch import Tensor

from service.contract import Explanation, Facts, Map, Probe, Rows, Targets, Trace, Tracing
from service.explainers.attention.tokens import ChainExplainer, as_map, blocks, read_from, reading, start
from service.explainers.base import explainer


@explainer(
    "attention-relevance",
    reference="Chefer et al. 2021 (ICCV), section 3.1, equations 5 and 6",
    requirement="A vision transformer whose attentions span all tokens, each block behind the one before it.",
    cost="1 forward, and a backward from the output to the first attention per target",
)
class AttentionRelevance(ChainExplainer):
    """Which patches' attention made the class: attention counts as far as more of it raises the logit.

    R = R + mean over heads of ReLU(A * dy_c/dA) R at each block, from R = I at the first one. The map is the class
    token's row of R; where outputs are read from the patches, as their mean, it is the mean of their rows, less the
    identity that R began with. `details.read` says which rows are taken.
    """

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        return 1 + 2 * targets

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (h, w) map >= 0 a target."""
        self.require(probe.facts)
        there = blocks(probe.facts)
        first, *_, last = (*there, *there)

        def logits(seen: Trace) -> Tensor:
            return targets.scores(seen.outputs)

        trace = probe.trace(Rows.of(image), Tracing(layers=tuple(there), wrt=tuple(there)), logits)
        maps = []
        for i, target in enumerate(targets.chosen(trace.outputs[0])):
            r = identity = start(probe.facts, first, image.device)
            for path in there:
                useful = (trace.activations[path][0] * trace.gradients[path][i, 0]).relu().mean(0)  # (T, T)
                r = r + useful @ r
            row = read_from(r - identity, there[last])
            maps.append(Map(self.name, as_map(row, there[last]), target=target, layer=last))
        return Explanation(
            maps=maps,
            details={
                "score": probe.facts.task.kinds[0],
                "blocks": len(there),
                "read": reading(there[last]),
            },
            outputs=trace.outputs[0],
        )

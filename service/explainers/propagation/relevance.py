"""What the methods share that hand a logit down to the pixels by rules of relevance."""

from abc import abstractmethod

from torch import Tensor

from service.contract import INPUT, Explanation, Facts, Map, Probe, Relevance, Rows, Targets, Trace, Tracing
from service.explainers.base import Explainer


class RelevanceExplainer(Explainer):
    """A method that starts with a target's logit and ends at the pixels."""

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a gradient at the input, and operators that can be seen."""
        facts.require_gradient(cls.name)
        facts.require_operators(cls.name)

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two, and all of it twice: rules take about as much again."""
        return 2 * (1 + 2 * targets)

    @abstractmethod
    def rule(self, facts: Facts) -> Relevance:
        """Return how operators share relevance."""

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed (H, W) map a target, the sum over the colours."""

        def logits(seen: Trace) -> Tensor:
            return targets.scores(seen.outputs)

        trace = probe.trace(Rows.of(image), Tracing(wrt=(INPUT,), rule=self.rule(probe.facts)), logits)
        maps = trace.gradients[INPUT][:, 0].sum(1)  # (T, H, W)
        explained, got = trace.objective[0], maps.sum((1, 2))
        found = Explanation(
            maps=[Map(self.name, maps[i], "signed", target=t) for i, t in enumerate(targets.chosen(trace.outputs[0]))],
            details={
                "score": probe.facts.task.kinds[0],
                "explained": explained.tolist(),
                "relevance": got.tolist(),
                "lost": (explained - got).tolist(),
            },
            outputs=trace.outputs[0],
        )
        promises = "its sum is the output that was shared out; biases and what keeps divisors from zero lose some of it"
        return found.adding_up(promises, explained.tolist(), (got - explained).tolist())

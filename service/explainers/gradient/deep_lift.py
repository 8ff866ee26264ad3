"""DeepLIFT: Shrikumar et al. 2017, "Learning Important Features Through Propagating Activation Differences"."""

import torch
from torch import Tensor

from service.contract import INPUT, Explanation, Facts, Kind, Map, Pairs, Probe, Rescale, Targets, Trace, Tracing
from service.errors import NotApplicable
from service.explainers.base import Explainer, explainer
from service.explainers.baselines import baseline
from service.explainers.fields import Baselines, Colours
from service.explainers.gradient.inputs import change_promised, over_colours


@explainer(
    "deep-lift",
    reference="Shrikumar et al. 2017, sections 3.2, 3.5.1 and 3.5.2",
    requirement="Any differentiable model that takes several pictures at a time.",
    cost="2 forwards and 2 whole backwards per target, for each baseline",
    kind="signed",
)
class DeepLIFT(Explainer):
    """How much each pixel adds to the difference between the picture's logit and a baseline's.

    The rescale rule: an activation function a(z) hands down the slope (a - a') / (z - z') between picture and baseline
    instead of its derivative, which saturates; linear layers hand down their weights. A max pool shares its change
    between the picture's winner and the baseline's, and a product gives each factor the other one's mean, so that
    gates, attention and layer norms lose nothing either. The map is slope times (x - x'), added up over the colours.

    It adds up to y(x) - y(x'), which `details.change` has; `details.completeness_residual` says by how much the sum
    misses it. With several baselines the map, the change and the residual are their means.
    """

    baseline: Baselines = "mean"
    colours: Colours = "sum"

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a gradient at the input, operators that can be seen, and two pictures side by side."""
        facts.require_gradient(cls.name)
        facts.require_operators(cls.name)
        if facts.singly:
            raise NotApplicable(
                f"{facts.name} takes one picture at a time, so that none can be held against another one inside of it; "
                "use 'saliency', which needs no second picture"
            )
        if turned := [info.path for info in facts.layers.values() if info.turned]:
            raise NotApplicable(
                f"{cls.name} holds the first half of a batch against the second, and layer {turned[0]!r} of "
                f"{facts.name} has the pictures of a batch on another axis than its first; use "
                "'integrated-gradients', or give its layers of sequences batch_first=True"
            )

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        return 2 * (1 + 2 * targets) * (1 + self.baseline.count("+"))

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one map a target: signed (H, W), >= 0, or (3, H, W)."""
        starts = torch.cat([baseline(probe.facts, image, name) for name in self.baseline.split("+")])

        def logits(seen: Trace) -> Tensor:
            return targets.scores(seen.outputs)

        pairs = Pairs.beside(image.expand_as(starts), starts)
        trace = probe.trace(pairs, Tracing(wrt=(INPUT,), rule=Rescale()), logits)
        outputs = trace.outputs[0]
        fixed = targets.fixed(outputs)
        parts = (trace.gradients[INPUT] * (image - starts)).mean(1)  # (T, 3, H, W)
        change = (fixed.scores(trace.outputs) - fixed.scores(trace.references)).mean(0)
        kind: Kind = "positive" if self.colours == "absmax" else "picture" if self.colours == "keep" else "signed"
        shown = probe.facts.coloured(parts) if self.colours == "keep" else over_colours(parts, self.colours)
        missing = parts.sum((1, 2, 3)) - change
        found = Explanation(
            maps=[Map(self.name, shown[i], kind, target=t) for i, t in enumerate(fixed.chosen(outputs))],
            details={
                "score": probe.facts.task.kinds[0],
                "change": change.tolist(),
                "completeness_residual": missing.tolist(),
            },
            outputs=outputs,
        )
        return found.adding_up(change_promised(probe.facts, self.colours), change.tolist(), missing.tolist())

"""Guided gradients, Springenberg et al. 2015: what guided backpropagation and Guided Grad-CAM share."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from service.contract import INPUT, Explanation, Facts, Map, Probe, Rows, Rule, Targets
from service.explainers.gradient.inputs import AT_INPUT, scored


@dataclass(frozen=True)
class Guided:
    """Guided gradients of the targets' logits at the input, with what the network answers."""

    gradient: Tensor  # (T, C, H, W)
    outputs: Tensor  # (K,)
    targets: Targets  # fixed

    def explained(self, method: str, facts: Facts, pictures: Tensor, layer: str | None = None) -> Explanation:
        """Return pictures (T, C, H, W) as an explanation."""
        shown = facts.coloured(pictures)
        details: dict[str, Any] = {
            "score": facts.task.kinds[0],
            "rectifiers": facts.rectifiers,
            "other_activations": list(facts.other_activations),
        }
        return Explanation(
            maps=[
                Map(method, shown[i], "picture", target=t, layer=layer)
                for i, t in enumerate(self.targets.chosen(self.outputs))
            ],
            details=details,
            outputs=self.outputs,
        )


def guided(probe: Probe, image: Tensor, targets: Targets) -> Guided:
    """Send each target's logit back to the picture (1, C, H, W), past each ReLU only what is positive both ways."""
    how = replace(AT_INPUT, rule=Rule("guided"))
    trace = probe.trace(Rows.of(image), how, scored(targets, "logit"))
    outputs = trace.outputs[0]
    return Guided(trace.gradients[INPUT][:, 0], outputs, targets.fixed(outputs))


def require_rectifiers(facts: Facts, method: str) -> None:
    """Raise `NotApplicable` where a network has no ReLU, so that there is nothing to guide."""
    does = "rectifies the gradient where the network rectified its features"
    facts.require_rectifiers(method, does, "'saliency' or 'integrated-gradients', which need none")

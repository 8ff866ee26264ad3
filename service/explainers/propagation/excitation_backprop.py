"""Excitation backprop: Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop", section 3.2."""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from service.contract import INPUT, Explanation, Facts, Map, Probe, Relevance, Rows, Share, Targets, Trace, Tracing
from service.errors import InvalidParameter, NotApplicable
from service.explainers.base import LayerExplainer, explainer
from service.explainers.fields import Layer

_LEAST = 1e-12  # a logit that is zero is as probable as any other
_PLUS = Share("alpha-beta", bias=False, epsilon=1e-12)


@explainer(
    "excitation-backprop",
    reference="Zhang et al. 2016, section 3.2, equation 5",
    requirement="A layer with spatial feature maps, or the input, in a network that rectifies with ReLU or ReLU6.",
    cost="1 forward, and a backward from the output to the layer per target, each about twice a plain one",
)
class ExcitationBackprop(LayerExplainer):
    """How probable it is that a walk from the class down through positive weights comes past a position.

    The walk starts at the class with probability 1. From a neuron j it steps to one of its inputs i in proportion to
    x_i+ w_ij+ (and x_i- w_ij-, where inputs may be negative), and never to a bias: P(i) = sum_j P(i | j) P(j); at a sum
    in proportion to its positive terms, at a max pool to the winner. The map adds up a position's channels.

    For a class that is held `against` others the map is by how much a walk from it comes past a position more probably
    than, on average, one from the others (the contrast of section 3.3, with these for all other classes); 0 where it
    does not. Nothing walks from a value that is to fall.

    `details.sum` is the probability that got to the layer, per target: 1, except where a neuron that was walked to has
    no positive input. Of a contrast it is what the map adds up to.
    """

    layer: Layer = None
    at: Annotated[
        Literal["layer", "input"], Field(description="Where the walk ends: at the layer, or at the input's pixels.")
    ] = "layer"

    @model_validator(mode="after")
    def _one_end(self) -> "ExcitationBackprop":
        if self.at == "input" and self.layer is not None:
            raise ValueError("the walk ends at the layer or at the input; leave `layer` out, or set `at` to 'layer'")
        return self

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need rectifiers, a layer with maps that a gradient of the outputs gets to, and outputs that are excited."""
        does = "walks from neuron to neuron by how much they excite each other, which rectifiers make them do"
        facts.require_rectifiers(cls.name, does, "'lrp', which needs none")
        facts.require_spatial(cls.name)
        facts.require_gradient(cls.name, None)
        if facts.task.name == "embedding":
            raise NotApplicable(
                f"{cls.name} walks to what excites a neuron, and what {facts.name} has in common with another picture "
                "may be coordinates below zero, which nothing excites; use 'lrp', which follows them, too"
            )

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two, and all of it twice: rules take about as much again."""
        return 2 * (1 + 2 * targets)

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one map >= 0 a target: (h, w) of the layer, or (H, W)."""
        facts = probe.facts
        path = INPUT if self.at == "input" else facts.layer(self.layer).path
        facts.require_gradient(self.name, path)
        for i, target in enumerate(targets.given or ()):
            if target.terms and all(weight < 0 for _, weight in target.terms):
                raise InvalidParameter.at(
                    f"/targets/{i}",
                    f"{self.name} walks from what raises {facts.label(target.index)!r}, and nothing walks from what "
                    "lowers it; leave `direction` out, or use 'lrp', which shows both",
                )

        def certain(seen: Trace) -> Tensor:
            y = facts.task.scores(seen.outputs, facts.task.kinds[0])
            one = y / torch.where(y.abs() < _LEAST, _LEAST, y).detach()  # relevance 1, whatever the logit
            return targets.fixed(seen.outputs).columns(one)

        rule = Relevance(_PLUS, _PLUS, positive=True)
        trace = probe.trace(Rows.of(image), Tracing(wrt=(path,), rule=rule), certain)
        maps = trace.gradients[path][:, 0].sum(1).clamp(min=0)  # (T, h, w)
        layer = None if path == INPUT else path
        return Explanation(
            maps=[
                Map(self.name, maps[i], target=t, layer=layer) for i, t in enumerate(targets.chosen(trace.outputs[0]))
            ],
            details={"score": facts.task.kinds[0], "sum": maps.sum((1, 2)).tolist()},
            outputs=trace.outputs[0],
        )

"""Deep feature factorisation: Collins et al. 2018, "Deep Feature Factorization For Concept Discovery"."""

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Map, Probe, Rows, Targets, Tracing
from service.explainers.base import LayerExplainer, explainer
from service.explainers.cam.head import head_behind
from service.explainers.features.factors import Factors, factorised
from service.explainers.fields import Layer

_CLASSES = 3  # named of each part


@explainer(
    "feature-factorisation",
    reference="Collins et al. 2018, section 3.1",
    requirement="A layer with spatial feature maps, best behind its ReLU.",
    cost="1 forward",
)
class FeatureFactorisation(LayerExplainer):
    """What a layer sees as parts: its maps as a sum of a few patterns of channels, and where each of them is.

    A ~ sum_p W_p H_p, all >= 0, with A the layer's maps (channels by positions), W_p a pattern of channels and H_p
    where it is; map p = |W_p| H_p, the strongest first. Nothing is drawn at random. `details.error` is |A - W H| / |A|.
    A channel with values below zero is raised by its least one first (`details.raised_channels`). Where the layer's
    means go straight into a linear layer, `details.classes` are the outputs to which each part adds most, and how much:
    what all parts add, and the bias, make up the logit, as far as A is W H; where channels were raised, together with
    `details.raised_adds`, what taking that off again adds to each output.
    """

    takes_targets = False
    layer: Layer = None
    parts: Annotated[int, Field(ge=2, le=16, description="How many parts.")] = 5

    def passes(self, facts: Facts, targets: int) -> int:
        """Return 1."""
        return 1

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (h, w) map >= 0 a part; fewer, where the layer has fewer channels or positions."""
        info = probe.facts.layer(self.layer)
        trace = probe.trace(Rows.of(image), Tracing(layers=(info.path,)))
        a = trace.activations[info.path][0]  # (C, h, w)
        least = a.flatten(1).amin(1)
        raised = least < 0
        x = a.flatten(1) - least.clamp(max=0)[:, None]  # (C, n)
        head = head_behind(probe.facts, info.path)
        lowered = None if head is None or not raised.any() else head.weight.double() @ least.double().clamp(max=0)
        found = factorised(x, self.parts)
        strength = found.w.norm(dim=0) * found.h.norm(dim=1)
        order = strength.argsort(descending=True, stable=True)
        maps = (found.w.norm(dim=0)[:, None] * found.h)[order].view(-1, *a.shape[1:]).to(a)
        return Explanation(
            maps=[Map(f"part {n}", m, layer=info.path) for n, m in enumerate(maps, 1)],
            details={
                "error": found.error,
                "rounds": found.rounds,
                "raised_channels": int(raised.sum()),
                "raised_adds": None if lowered is None else lowered.tolist(),
                "strength": (strength[order] / x.double().norm().clamp(min=1e-300)).tolist(),
                "classes": _classes(probe.facts, info.path, found, order),
                "followed_by": info.followed_by,
            },
            outputs=trace.outputs[0],
        )


def _classes(facts: Facts, layer: str, found: Factors, order: Tensor) -> list[list[dict[str, Any]]] | None:
    """Return the outputs to which each part adds most, through a linear head; None where there is none."""
    head = head_behind(facts, layer)
    if head is None:
        return None
    adds = (head.weight.double() @ found.w) * found.h.mean(1)  # (K, k)
    best = adds.T[order].topk(min(_CLASSES, facts.outputs))  # (k, 3)
    return [
        [{"index": i, "label": facts.label(i), "adds": value} for value, i in zip(values, indices, strict=True)]
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]

"""FullGrad: Srinivas & Fleuret 2019, "Full-Gradient Representation for Neural Network Visualization"."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from service.contract import INPUT, Explanation, Facts, Kind, LayerInfo, Map, Probe, Rows, Targets, Trace, Tracing
from service.errors import NotApplicable
from service.explainers.base import Explainer, explainer


@explainer(
    "full-grad",
    reference="Srinivas & Fleuret 2019, equations 2 and 8",
    requirement="Any differentiable model; complete for one of linear layers, batch norms, ReLUs and max pools.",
    cost="1 forward and a whole backward per target, which keep what all layers with an offset answer",
)
class FullGrad(Explainer):
    """Input times gradient, and each layer's offset times the gradient at its output: what else the logit is made of.

    y = x dy/dx + sum over layers of b_l dy/dz_l, where z_l = W x_l + b_l; a batch norm's offset is its shift less its
    mean times its scale. `saliency` adds up the absolute value of each channel of each of these, scaled to 0..1 and
    enlarged. `sum` keeps sign and size: its map adds up to the parts that have a place in the picture. Layers that
    answer in windows, or to the steps of sequences first, have no such parts.

    `details.without_place` is the part of layers without maps and of tokens without a place, which no map shows, and
    `details.completeness_residual` what is missing from y_c all in all: near zero for networks of linear layers, ReLUs
    and max pools, and not for smooth activations, ReLU6 where it is saturated, gates and layer norms, which have no
    such sum.
    """

    aggregate: Annotated[
        Literal["saliency", "sum"], Field(description="Scaled absolute values, or what adds up to the logit.")
    ] = "saliency"

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a gradient at the input, operators that can be seen, and layers that answer to each picture apart."""
        facts.require_gradient(cls.name)
        facts.require_operators(cls.name)
        if mixed := [info.path for info in facts.layers.values() if not info.apart]:
            raise NotApplicable(
                f"{cls.name} adds up what every layer adds, and it is not known which part of what layer {mixed[0]!r} "
                f"of {facts.name} answers to a batch is which picture's; use 'gradient-x-input', which needs no layer"
            )

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        return 1 + 2 * targets

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (H, W) map a target: >= 0, or signed."""
        layers = [
            info
            for info in probe.facts.layers.values()
            if info.gradient and info.attention is None and "+" not in info.path
        ]
        offsets = {info.path: offset for info in layers if (offset := probe.offset(info.path)) is not None}
        size = (image.shape[2], image.shape[3])

        def logits(seen: Trace) -> Tensor:
            return targets.scores(seen.outputs)

        trace = probe.trace(Rows.of(image), Tracing(wrt=(INPUT, *offsets), whole=True), logits)
        parts = trace.gradients[INPUT][:, 0] * image  # (T, C, H, W)
        shown, told = self._shown(parts, size), parts.sum((1, 2, 3))
        without_place = torch.zeros_like(told)
        for path, b in offsets.items():
            layout = probe.facts.layers[path].layout
            info, g = probe.facts.layers[path], trace.gradients[path][:, 0]
            parts = self._weighed(g.flatten(0, 1) if info.folded else g, b, info)
            everywhere = parts.reshape(len(g), -1).sum(1)
            if layout is None:
                without_place += everywhere
                continue
            maps = layout.maps(parts)
            shown += self._shown(maps, size)
            told += maps.sum((1, 2, 3))
            without_place += everywhere - maps.sum((1, 2, 3))  # of tokens such as a class token
        explained = trace.objective[0]
        kind: Kind = "positive" if self.aggregate == "saliency" else "signed"
        missing = told + without_place - explained
        found = Explanation(
            maps=[Map(self.name, shown[i], kind, target=t) for i, t in enumerate(targets.chosen(trace.outputs[0]))],
            details={
                "score": probe.facts.task.kinds[0],
                "explained": explained.tolist(),
                "without_place": without_place.tolist(),
                "completeness_residual": missing.tolist(),
                "layers": len(offsets),
            },
            outputs=trace.outputs[0],
        )
        promises = "what all layers and the input add, before it is aggregated, is the output"
        return found.adding_up(promises, explained.tolist(), missing.tolist())

    def _shown(self, parts: Tensor, size: tuple[int, int]) -> Tensor:
        """Return (T, H, W) of one layer's (T, C, h, w)."""
        if self.aggregate == "sum":  # as much in all as before, spread over more pixels
            share = parts.shape[2] * parts.shape[3] / (size[0] * size[1])
            return share * F.interpolate(parts.sum(1, keepdim=True), size, mode="bilinear")[:, 0]
        parts = parts.abs()
        low, high = parts.amin((2, 3), keepdim=True), parts.amax((2, 3), keepdim=True)
        scaled = torch.where(high > low, (parts - low) / torch.where(high > low, high - low, 1), 0)
        # Enlarging is linear: the channels are added up first.
        return F.interpolate(scaled.sum(1, keepdim=True), size, mode="bilinear")[:, 0]

    @staticmethod
    def _weighed(g: Tensor, b: Tensor, info: LayerInfo) -> Tensor:
        """Return b g of gradients (T, ...), by the axis of the channels: the last one of tokens and linear layers."""
        if info.layout is not None:
            last = info.layout.axes in ("hwc", "tokens")
        else:
            last = info.kernel is None and not info.type.startswith("BatchNorm") and g.shape[-1] == len(b)
        return g * (b if last else b.view(-1, *[1] * (g.ndim - 2)))

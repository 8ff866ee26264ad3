"""Ablation-CAM: Desai & Ramaswamy 2020, "Ablation-CAM: ... via Gradient-free Localization"."""

from typing import Any

import torch
from torch import Tensor

from service.contract import At, Explanation, Facts, Kind, Map, Probe, Rows, Targets, Tracing, fingerprint
from service.explainers.base import LayerExplainer, explainer
from service.explainers.cam.head import head_behind
from service.explainers.fields import Layer, Relu, ScoreOf
from service.explainers.rounding import steady, weighted


@explainer(
    "ablation-cam",
    reference="Desai & Ramaswamy 2020, section 3, equations 3 and 4",
    requirement="A layer with spatial feature maps; no gradients.",
    cost="1 forward, and one of what is behind the layer per channel that is not all zero; none where global average "
    "pooling and one linear layer are all that is",
)
class AblationCAM(LayerExplainer):
    """How far the score drops without each feature map: feature maps weighted by what is lost when they are zero.

    w_k = y_c - y_c(A with A_k = 0); map = ReLU(sum_k w_k A_k). The paper divides w_k by y_c, which scales the map,
    and turns it over where y_c is negative; here nothing is divided. `details.drops` are the w_k. A channel of zeros
    loses nothing and takes no forward. Where the layer's means go straight into a linear layer with weights v, w_k =
    v_k mean A_k, which takes none at all (`details.by_head`).
    """

    layer: Layer = None
    score: ScoreOf = "logit"
    relu: Relu = True

    def passes(self, facts: Facts, targets: int) -> int:
        """Return an upper bound: every channel, each counted as a whole forward, and the clean picture."""
        info = facts.layer(self.layer)
        return 1 if head_behind(facts, info.path) is not None else 1 + info.shape[0]

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (h, w) map a target: >= 0, or signed without `relu`."""
        path = probe.facts.layer(self.layer).path
        trace = probe.trace(Rows.of(image), Tracing(layers=(path,)))
        a, outputs = trace.activations[path][0], trace.outputs[0]  # (C, h, w), (K,)
        targets = targets.fixed(outputs)
        living = a.flatten(1).ne(0).any(1)
        # With the strongest channels first, a sketch from the first few is already telling.
        order = a.flatten(1).square().sum(1).argsort(descending=True, stable=True)
        order = order[living[order]]  # (n,)
        head = head_behind(probe.facts, path)

        def combine(without: Tensor) -> Explanation:
            """Return what the outputs (m, K) without each of the first m channels tell."""
            y = targets.scores(torch.cat([outputs[None].to(without), without]), self.score)  # (1 + m, T)
            y = y if head is not None else steady(y)
            w = torch.zeros(len(a), y.shape[1], dtype=y.dtype, device=y.device)
            w[order[: len(without)]] = y[:1] - y[1:]
            details = {"drops": w.T.tolist(), "zero_channels": int((~living).sum()), "by_head": head is not None}
            return self._explained(w, a, path, targets, outputs, details)

        if head is not None:
            lost = a[order].double().mean((1, 2))[:, None] * head.weight.double().T[order]  # (n, K)
            return combine(outputs.double() - lost)
        if not len(order):
            return combine(outputs[None][:0])

        def rows(i: int, j: int) -> Tensor:
            built = a.repeat(j - i, 1, 1, 1)
            built[torch.arange(j - i), order[i:j]] = 0
            return built

        # Which of two channels that are as strong comes first may differ from batch to batch.
        at = At(len(order), rows, ("ablated", fingerprint(image), path, fingerprint(order)), image, path)
        return combine(probe.scores(at, sketch=combine))

    def _explained(
        self, w: Tensor, a: Tensor, path: str, targets: Targets, outputs: Tensor, details: dict[str, Any]
    ) -> Explanation:
        cam = weighted(w.T, a)
        cam = cam.relu() if self.relu else cam
        kind: Kind = "positive" if self.relu else "signed"
        return Explanation(
            maps=[Map(self.name, cam[i], kind, target=t, layer=path) for i, t in enumerate(targets.chosen(outputs))],
            details={"score": self.score, **details},
            outputs=outputs,
            avoided=0 if details["by_head"] else details["zero_channels"],
        )

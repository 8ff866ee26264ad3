"""Segment ablation: feature ablation whose features are segments of the picture."""

import torch
from torch import Tensor

from service.contract import Boxes, Explanation, Facts, Probe, Rows, Targets
from service.explainers.base import explainer
from service.explainers.perturbation.switching import SegmentMethod
from service.explainers.rounding import steady


@explainer(
    "segment-ablation",
    reference="Zeiler & Fergus 2014, section 4.2, with segments for the square; feature ablation in Captum",
    requirement="Any model; only its outputs are used.",
    cost="1 forward per segment",
    kind="regions",
)
class SegmentAblation(SegmentMethod):
    """How far the score drops when one segment of the picture is hidden: f(X) - f(X without the segment).

    A segment that already shows what stands for it changes nothing, which takes no forward.
    """

    def passes(self, facts: Facts, targets: int) -> int:
        """Return the segments and the clean picture."""
        return self.most(facts) + 1

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed (H, W) map a target, in units of the score."""
        labels = self.labels(probe.facts, image)
        m = int(labels.max()) + 1
        changed = (image[0] != self.filling(probe.facts, image, labels)).any(0).cpu()
        # The others show their filling as it is.
        hidden = torch.bincount(labels[changed], minlength=m).nonzero()[:, 0]
        on = torch.ones(1 + len(hidden), m, dtype=torch.bool)
        on[torch.arange(1, len(on)), hidden] = False

        def combine(outputs: Tensor) -> Explanation:
            chosen = targets.fixed(outputs)
            f = steady(chosen.scores(outputs, self.score).double().cpu())  # (rows, T)
            drops = torch.zeros(m, f.shape[1], dtype=torch.float64)
            drops[hidden[: len(f) - 1]] = f[:1] - f[1:]
            return self.laid_out(labels, drops, {"hidden": len(f) - 1}, outputs[0], chosen)

        found = combine(probe.scores(self._rows(probe.facts, image, labels, on), sketch=combine))
        return Explanation(found.maps, found.details, found.outputs, avoided=m - len(hidden))

    def _rows(self, facts: Facts, image: Tensor, labels: Tensor, on: Tensor) -> Rows:
        """Return the rows; squares are boxes, of which the engine may compute what changes alone."""
        rows = self.switched(facts, image, labels, on)
        if self.segments != "squares" or len(on) == 1:
            return rows
        boxes = []
        for segment in (~on[1:]).nonzero()[:, 1]:
            y, x = (labels == segment).nonzero().T
            boxes.append((int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1))
        return Boxes.on(image, self.filling(facts, image, labels), boxes, rows.key)

"""Group-CAM: Zhang et al. 2021, "Group-CAM: Group Score-Weighted Visual Explanations for Deep CNNs"."""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Probe, Rows, Targets, fingerprint
from service.explainers.base import explainer
from service.explainers.baselines import baseline
from service.explainers.cam.gradients import AtLayer, GradientCAM
from service.explainers.cam.masking.masks import enlarged, min_max
from service.explainers.fields import Relu, ScoreOf
from service.explainers.rounding import added, steady, weighted


@explainer(
    "group-cam",
    reference="Zhang et al. 2021 (arXiv 2103.13859), section 3",
    requirement="A layer with spatial feature maps; any head.",
    cost="2 forwards, and per target a backward from the output to the layer and 1 forward per group",
)
class GroupCAM(GradientCAM):
    """Grad-CAM by groups of channels, each weighed by what the picture scores where that group's map shows it.

    With alpha_k Grad-CAM's weights, M_l = ReLU(sum_{k in group l} alpha_k A_k), scaled to 0..1, and H_l that at the
    input's size: w_l = f(X H_l + blur(X) (1 - H_l)) - f(blur(X)); map = ReLU(sum_l w_l M_l). A group is a run of
    channels in their order. `details.gains` are the w_l. A group that says nothing for the class (M_l = 0) shows the
    blurred picture, and takes no forward.
    """

    score: ScoreOf = "logit"
    groups: Annotated[
        int, Field(ge=4, le=128, description="How many groups; as many as channels, where there are fewer of these.")
    ] = 32
    relu: Relu = True

    def passes(self, facts: Facts, targets: int) -> int:
        """Return an upper bound: the backward stops at the layer."""
        groups = min(self.groups, facts.layer(self.layer).shape[0])
        return super().passes(facts, targets) + 1 + targets * groups

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (h, w) map a target: >= 0, or signed without `relu`."""
        at = self._at_layer(probe, image, targets)
        m = self._grouped(at)  # (T, L, h, w)
        # Group after group, each of all targets, so that a sketch tells of all of them.
        shown = m.flatten(2).amax(2).T.nonzero()  # (n, 2) of (group, target)
        used = m[shown[:, 1], shown[:, 0]]  # (n, h, w)
        size, blurred = (image.shape[2], image.shape[3]), baseline(probe.facts, image, "blur")

        def build(i: int, j: int) -> Tensor:
            """Return the blurred picture, and it with what each group shows of the picture."""
            h = enlarged(used[max(i, 1) - 1 : j - 1], size)[:, None]
            return torch.cat([blurred[: i == 0], blurred + (image - blurred) * h])

        def combine(outputs: Tensor) -> Explanation:
            """Return what the outputs (n, K) of the first rows tell."""
            f = steady(at.targets.scores(outputs, self.score))  # (n, T)
            groups, of = shown[: len(f) - 1].T
            w = torch.zeros_like(m[:, :, 0, 0])  # (T, L)
            w[of, groups] = f[torch.arange(1, len(f)), of] - f[0, of]
            cam = weighted(w, m)
            details = {"score": self.score, "gains": w.tolist(), "groups": m.shape[1]}
            if self.relu:
                return self._explained(probe, at, cam.relu(), details=details)
            return self._explained(probe, at, cam, "signed", details)

        named = tuple((target.index, target.terms) for target in at.targets.chosen(at.outputs))
        key = "groups", fingerprint(image), at.layer, self.groups, named
        found = combine(probe.scores(Rows(1 + len(shown), build, key), sketch=combine))
        return replace(found, avoided=m.shape[0] * m.shape[1] - len(shown))

    def _grouped(self, at: AtLayer) -> Tensor:
        """Return each target's and group's map in 0..1, (T, L, h, w)."""
        weighed = at.g.mean((2, 3))[:, :, None, None] * at.a  # (T, K, h, w)
        groups = torch.tensor_split(weighed, min(self.groups, weighed.shape[1]), 1)
        summed = torch.stack([added(group) for group in groups], 1).relu()
        return min_max(summed.flatten(0, 1)).view_as(summed)

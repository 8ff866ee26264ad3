"""Finer-CAM: Zhang et al. 2025, "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation"."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Probe, Targets
from service.errors import InvalidParameter, NotApplicable
from service.explainers.base import explainer
from service.explainers.cam.gradients import GradientCAM
from service.explainers.fields import Relu
from service.explainers.rounding import weighted


@explainer(
    "finer-cam",
    reference="Zhang et al. 2025, section 3.2",
    requirement="A classifier of two classes or more, with a layer with spatial feature maps.",
    cost="1 forward, and a backward from the output to the layer per target",
)
class FinerCAM(GradientCAM):
    """Where a layer's features tell a class from those that it is most easily taken for.

    Grad-CAM of z = y_c - strength * mean_d y_d, over the classes d that are named, or else the `similar` ones whose
    logits are nearest to the class's on this picture: alpha_k = mean over positions of dz/dA_k; map = ReLU(sum_k
    alpha_k A_k). `details.references` are the classes d of each target. With `strength: 0` it is Grad-CAM.
    """

    relu: Relu = True
    references: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...],
        Field(
            max_length=16,
            description="Indices of the classes to compare with; default: the `similar` ones nearest in score.",
            examples=[[282, 285]],
        ),
    ] = ()
    similar: Annotated[int, Field(ge=1, le=16, description="How many to compare with, where none are named.")] = 3
    strength: Annotated[
        float, Field(ge=0, le=1, description="How much of what speaks for the other classes is taken off.")
    ] = 0.6

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a classifier of two classes or more, and a layer with maps that a gradient gets to."""
        super().require(facts)
        if facts.task.looks or facts.task.measures or facts.outputs < 2:
            raise NotApplicable(
                f"{cls.name} compares classes, and {facts.name} is a {facts.task.name} model of {facts.outputs} "
                f"output(s); use {facts.any_cam}, which explains any score"
            )

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (h, w) map a target: >= 0, or signed without `relu`."""
        facts = probe.facts
        for i, one in enumerate(self.references):
            if one >= facts.outputs:
                raise InvalidParameter.at(
                    f"/params/references/{i}",
                    f"class {one} is out of range: {facts.name} has outputs 0 to {facts.outputs - 1}",
                )

        def contrast(outputs: Tensor) -> Tensor:
            """Return z (n, T) of outputs (n, K), whose first row says which classes are similar."""
            fixed = targets.fixed(outputs)
            y = facts.task.scores(outputs, "logit")  # (n, K)
            own = fixed.columns(y)  # (n, T)
            others = [y[:, found].mean(1) for found in self._references(y[0], fixed)]
            return own - self.strength * torch.stack(others, 1)

        at = self._at_layer(probe, image, targets, contrast)
        y = facts.task.scores(at.outputs, "logit")
        details = {"references": self._references(y, at.targets)}
        cam = weighted(at.g.mean((2, 3)), at.a)
        if self.relu:
            return self._explained(probe, at, cam.relu(), details=details)
        return self._explained(probe, at, cam, "signed", details)

    def _references(self, y: Tensor, targets: Targets) -> list[list[int]]:
        """Return the classes to compare each target with, given the clean picture's logits (K,)."""
        found = []
        for target in targets.chosen(y):
            taken = {target.index, *(column for column, _ in target.terms)}
            # Also where it is held against others: its own logit, and not how far it is above theirs.
            nearest = (y.detach() - y.detach()[target.index]).abs().argsort(stable=True).tolist()
            named = [one for one in self.references if one not in taken]
            rest = named if self.references else [one for one in nearest if one not in taken][: self.similar]
            if not rest:
                raise InvalidParameter.at(
                    "/params/references",
                    f"nothing is left to compare class {target.index} with, as it is among the references itself, or "
                    "in its contrast; name other classes",
                )
            found.append(rest)
        return found

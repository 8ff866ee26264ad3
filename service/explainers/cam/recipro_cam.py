"""Recipro-CAM: Byun & Lee 2022, "Recipro-CAM: Fast gradient-free visual explanations".

For vision transformers: Byun & Lee 2023, "ViT-ReciproCAM: Gradient and Attention-Free Visual Explanations".
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from service.contract import At, Explanation, Facts, Map, Probe, Rows, Targets, Tracing, fingerprint
from service.explainers.base import LayerExplainer, explainer
from service.explainers.cam.head import head_behind
from service.explainers.fields import Layer, ScoreOf
from service.explainers.rounding import steady

KERNELS = {"point": [0.0, 1.0, 0.0], "gaussian": [1.0, 2.0, 1.0]}  # along each axis, of what is left


@explainer(
    "recipro-cam",
    reference="Byun & Lee 2022, section 3; transformers: Byun & Lee 2023",
    requirement="A layer with spatial feature maps; no gradients.",
    cost="1 forward, and one of what is behind the layer per position of its maps; none where global average pooling "
    "and one linear layer are all that is",
    kind="signed",
)
class ReciproCAM(LayerExplainer):
    """What the network says of each position's features alone: the score where all others of the layer are zero.

    map_ij = y_c(A * M_ij), with M_ij a mask over the positions that shows the point ij, or a bell of 3 x 3 around it
    ([1 2 1]^2 / 16), and hides the rest in all channels. A transformer's tokens that have no place, such as the class
    token, keep what the picture gave them. Where the layer's means go straight into a linear layer, the point's map is
    CAM divided by the number of positions, plus the bias, and takes no forward.
    """

    layer: Layer = None
    score: ScoreOf = "logit"
    kernel: Annotated[
        Literal["point", "gaussian"],
        Field(description="What is left of the maps: the position itself, or a bell of 3 x 3 positions around it."),
    ] = "point"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return the positions, each counted as a whole forward, and the clean picture."""
        info = facts.layer(self.layer)
        _, h, w = info.shape
        return 1 if head_behind(facts, info.path) is not None else 1 + h * w

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed (h, w) map a target."""
        path = probe.facts.layer(self.layer).path
        trace = probe.trace(Rows.of(image), Tracing(layers=(path,)))
        a, outputs = trace.activations[path], trace.outputs[0]  # (1, C, h, w), (K,)
        targets = targets.fixed(outputs)
        m = masks((a.shape[2], a.shape[3]), self.kernel).to(a)  # (hw, 1, h, w)
        head = head_behind(probe.facts, path)
        if head is None:
            key = "masked maps", fingerprint(image), path, self.kernel
            table = probe.scores(At(len(m), lambda i, j: a * m[i:j], key, image, path))
        else:
            means = torch.einsum("chw,phw->pc", a[0].double(), m[:, 0].double()) / len(m)  # (hw, C)
            table = means @ head.weight.double().T + head.bias.double()
        y = targets.scores(table, self.score)
        y = y if head is not None else steady(y)
        cam = y.T.reshape(-1, *a.shape[2:]).to(a)  # (T, h, w)
        return Explanation(
            maps=[
                Map(self.name, cam[i], "signed", target=t, layer=path) for i, t in enumerate(targets.chosen(outputs))
            ],
            details={"score": self.score, "by_head": head is not None},
            outputs=outputs,
        )


def masks(size: tuple[int, int], kernel: str) -> Tensor:
    """Return a mask for each position, in order of reading, (hw, 1, h, w); a bell is cut off at the edges."""
    h, w = size
    points = torch.eye(h * w).view(-1, 1, h, w)
    axis = torch.tensor(KERNELS[kernel])
    bell = axis[:, None] * axis
    return F.conv2d(points, (bell / bell.sum()).view(1, 1, 3, 3), padding=1)

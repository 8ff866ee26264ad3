"""CAM: Zhou et al. 2016, "Learning Deep Features for Discriminative Localization", section 2."""

import torch
from torch import Tensor

from service.errors import NotApplicable
from service.explainers.base import Explainer, Explanation, Facts, Head, Map, Probe, Targets, Task, explainer


def linear_head(facts: Facts, method: str, task: Task) -> Head:
    """Return the proved GAP -> linear head of a model of the given task.

    Raises:
        NotApplicable: the model has another task or another head.
    """
    if facts.task != task:
        other = "ram" if task == "classification" else "cam"
        raise NotApplicable(f"{method} needs a {task} model and {facts.name} is a {facts.task} one; use {other!r}")
    if facts.head is None:
        raise NotApplicable(
            f"{method} needs global average pooling straight into one linear layer; on {facts.name} no layer "
            "satisfies sum(map)/(h*w) + bias == output. Use 'grad-cam', which needs no such head"
        )
    return facts.head


def weighted_maps(probe: Probe, image: Tensor, head: Head, targets: Targets) -> tuple[Tensor, list[int], Tensor, float]:
    """Return maps M_c = sum_k w_k^c A_k (T, h, w), their targets, the outputs (K,) and the identity's residual."""
    trace = probe.trace(image, layers=[head.layer])
    assert trace.outputs is not None
    outputs = trace.outputs[0]
    chosen = targets(outputs)
    a = trace.activations[head.layer][0]  # (C, h, w)
    m = torch.einsum("tc,chw->thw", head.weight[chosen], a)
    residual = (m.mean((1, 2)) + head.bias[chosen] - outputs[chosen]).abs().max()
    return m, chosen, outputs, float(residual)


@explainer(
    "cam",
    reference="Zhou et al. 2016, section 2, equation 2",
    requirement="A classifier whose last feature map goes through global average pooling into one linear layer.",
    cost="1 forward",
)
class CAM(Explainer):
    """Where the evidence for a class lies: the last feature map weighted by the class's own linear weights.

    M_c(x, y) = sum_k w_k^c A_k(x, y), without ReLU and without bias, so that the mean of the map plus the bias
    is the logit; `details.completeness_residual` shows how exactly. Signed: negative regions speak against the
    class. The layer is fixed by the network's head.
    """

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a proved linear head."""
        linear_head(facts, "cam", "classification")

    def forwards(self, facts: Facts, targets: int) -> int:
        """Return 1."""
        return 1

    def explain(self, probe: Probe, image: Tensor | None, targets: Targets) -> Explanation:
        """Return one signed (h, w) map a target."""
        assert image is not None
        head = linear_head(probe.facts, "cam", "classification")
        m, chosen, outputs, residual = weighted_maps(probe, image, head, targets)
        return Explanation(
            maps=[Map("cam", m[i], "signed", target=t, layer=head.layer) for i, t in enumerate(chosen)],
            details={"completeness_residual": residual, "bias": [float(head.bias[t]) for t in chosen]},
            outputs=outputs,
        )

"""Heads of averaged features: what CAM and RAM need, and what saves others their rows."""

from torch import Tensor

from service.contract import Explanation, Facts, Head, Map, Probe, Rows, Targets, Tracing
from service.errors import NotApplicable
from service.explainers.rounding import weighted

EXACT = 1e-5  # the residual of a head that is one up to rounding


def linear_head(facts: Facts, method: str, *, measures: bool) -> Head:
    """Return the proved GAP -> linear head of a network whose outputs are quantities, or of one with classes.

    Raises:
        NotApplicable: the network has another task or another head.
    """
    if facts.task.looks:
        raise NotApplicable(
            f"{method} needs outputs that are one number a class or quantity, and {facts.name} is a model for "
            f"{facts.task.name}; use {facts.any_cam}, which explains whatever is asked of it"
        )
    if facts.task.measures != measures:
        wanted, other = ("regression", "'cam'") if measures else ("classification", "'ram'")
        raise NotApplicable(
            f"{method} needs a {wanted} model and {facts.name} is a {facts.task.name} one; use "
            f"{other if facts.head is not None else facts.any_cam}"
        )
    if facts.head is None:
        raise NotApplicable(
            f"{method} needs global average pooling straight into one linear layer; on {facts.name} no layer "
            f"satisfies sum(map)/(h*w) + bias == output. Use {facts.any_cam}, which needs no such head"
        )
    return facts.head


def head_behind(facts: Facts, layer: str) -> Head | None:
    """Return the proved head that averages a layer's maps, so that outputs of other maps are known; None: it has none.

    outputs(A) = weight @ mean(A) + bias for any A of this layer.
    """
    if facts.head is None or facts.head.layer != layer or facts.task.looks or facts.head.residual > EXACT:
        return None
    return facts.head


def weighted_maps(name: str, probe: Probe, image: Tensor, head: Head, targets: Targets) -> Explanation:
    """Return the signed maps M_c = sum_k w_k^c A_k, one (h, w) a target, and how exactly they add up to the outputs."""
    trace = probe.trace(Rows.of(image), Tracing(layers=(head.layer,)))
    outputs = trace.outputs[0]
    targets = targets.fixed(outputs)
    a = trace.activations[head.layer][0]  # (C, h, w)
    w, b = targets.columns(head.weight.T), targets.columns(head.bias)  # (C, T), (T,)
    m = weighted(w.T, a)
    change = targets.columns(outputs) - b
    missing = m.mean((1, 2)) - change
    found = Explanation(
        maps=[Map(name, m[i], "signed", target=t, layer=head.layer) for i, t in enumerate(targets.chosen(outputs))],
        details={"completeness_residual": float(missing.abs().max()), "bias": b.tolist()},
        outputs=outputs,
    )
    return found.adding_up("its mean is the output less the bias", change.tolist(), missing.tolist())

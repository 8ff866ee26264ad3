"""Which rule each operator follows: how far a region spreads in it, and how it runs on a rectangle without padding.

An operator is local where each value of its output depends on few neighbouring values of its inputs, all channels
together: convolution, pooling, normalisation by fixed statistics, activations, sums, concatenations, and views that
leave the last two axes alone. Gates, attention, group and layer norms read whole maps.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from service.engine.incremental.recording.graph import (
    RESHAPING,
    Joined,
    Local,
    Node,
    Pair,
    Pooled,
    Ref,
    RegionRule,
    Shifted,
    Window,
)

POINTWISE = frozenset(
    [
        *("alias", "clone", "contiguous", "detach", "dropout", "feature_dropout"),
        *(
            "abs",
            "add",
            "div",
            "exp",
            "maximum",
            "minimum",
            "mul",
            "neg",
            "pow",
            "rsqrt",
            "rsub",
            "sqrt",
            "square",
            "sub",
        ),
        *("clamp", "clamp_max", "clamp_min", "hardtanh", "relu", "relu6", "threshold"),
        *("celu", "elu", "gelu", "hardsigmoid", "hardswish", "leaky_relu", "log_sigmoid", "mish", "prelu", "selu"),
        *("sigmoid", "silu", "softplus", "tanh", "batch_norm"),
    ]
)
"""Operators of one value of each input, wherever all inputs are maps of one shape."""

_DROPOUT = frozenset(["dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"])
# Operators whose output lies in memory of its own, so that what reads it alone may overwrite it.
_FRESH = frozenset(["conv2d", "convolution", "batch_norm", "add", "cat", "linear", "avg_pool2d"])


def is_dropout(func: Any) -> bool:
    """Whether an operator is a dropout, in place or not; in evaluation mode it returns its input."""
    return func.overloadpacket.__name__.removesuffix("_") in _DROPOUT


def annotate(node: Node, nodes: Sequence[Node]) -> None:
    """Find a node's rule, whether its value is a map, and how many multiplications a row takes.

    All nodes that it reads have to be annotated before.
    """
    inputs = [nodes[i] for i in node.inputs]
    if node.name in ("conv2d", "convolution"):
        weight = node.argument("weight")
        node.macs = math.prod(node.shape) * math.prod(weight.shape[1:]) if isinstance(weight, Tensor) else 0
    elif node.name == "linear":
        node.macs = math.prod(node.shape) * inputs[0].shape[-1]
    if not any(i.is_map for i in inputs):  # The inputs are values of a row as a whole, and so is the output.
        node.rule = Local()
    elif all(i.is_map for i in inputs):
        if node.name == "conv2d":
            _lay_out_weight(node)
        node.rule = _rule(node, inputs)
        node.is_map = node.rule is not None and not isinstance(node.rule, Pooled)


def overwriting(node: Node, nodes: Sequence[Node], readers: Sequence[int]) -> Any:
    """Return the operator that computes a node in its input's memory; None where that is not safe.

    `readers` counts the nodes that read each one.
    """
    first = node.args[0] if node.args else None
    if node.name not in POINTWISE or not isinstance(first, Ref) or len(node.inputs) != 1:
        return None
    if readers[first.node] != 1 or nodes[first.node].name not in _FRESH:
        return None
    packet = getattr(torch.ops.aten, node.name + "_", None)
    overload = node.func._overloadname
    return getattr(packet, overload) if packet is not None and overload in packet.overloads() else None


def _lay_out_weight(node: Node) -> None:
    """Let a convolution's weight lie channels last, as the maps do: kernels would lay it out anew in each call."""
    weight = node.argument("weight")
    if isinstance(weight, Tensor) and weight.ndim == 4:
        laid_out = weight.contiguous(memory_format=torch.channels_last)
        node.args = tuple(laid_out if a is weight else a for a in node.args)


def _rule(node: Node, inputs: Sequence[Node]) -> RegionRule | None:
    name, first = node.name, inputs[0]
    if name in POINTWISE:
        return _pointwise(node, inputs)
    if name == "cat":
        axis = node.argument("dim")
        return Joined() if len(first.shape) == 3 and axis in (1, -3) else None
    if name == "conv2d":
        return _convolution(node, first)
    if name == "max_pool2d":
        return _max_pool(node, first)
    if name == "avg_pool2d":
        return _avg_pool(node, first)
    if name in ("adaptive_avg_pool2d", "mean"):
        return _mean(node, first)
    if name in ("constant_pad_nd", "pad"):
        return _border(node)
    return _view(node, first)


def _pointwise(node: Node, inputs: Sequence[Node]) -> RegionRule | None:
    if any(i.shape != node.shape for i in inputs):
        return None
    if node.name == "batch_norm":
        return Local() if len(node.shape) == 3 and not node.argument("training") else None
    if node.name == "prelu":
        return Local() if len(node.shape) == 3 else None
    constants = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, Tensor)]
    alike = all(a.ndim == 0 or a.numel() == 1 or (a.ndim >= 2 and a.shape[-2:] == (1, 1)) for a in constants)
    return Local() if alike else None


def _view(node: Node, first: Node) -> RegionRule | None:
    """Return the rule of a view or a selection of channels, and of a crop; the last two axes have to keep their place.

    Axes are counted with that of the batch.
    """
    name, axes = node.name, len(first.shape) + 1
    if name in RESHAPING:
        return Local() if len(node.shape) >= 2 and node.size == first.size else None
    if name in ("select", "chunk", "split", "split_with_sizes", "slice", "narrow"):
        axis = node.argument("dim") % axes
        if name == "slice" and axis >= axes - 2 and node.argument("step") == 1:
            at = node.argument("start") or 0
            at += first.shape[axis - 1] if at < 0 else 0
            before = (-at, 0) if axis == axes - 2 else (0, -at)
            return Window((1, 1), (1, 1), before, 0.0, lambda x, _: x)
        return Local() if 1 <= axis < axes - 2 else None
    if name == "unsqueeze":
        return Local() if 1 <= node.argument("dim") % (axes + 1) <= axes - 2 else None
    if name == "transpose":
        moved = (node.argument("dim0") % axes, node.argument("dim1") % axes)
        return Local() if all(1 <= axis < axes - 2 for axis in moved) else None
    if name == "permute":
        order = [d % axes for d in node.argument("dims")]
        return Local() if order[0] == 0 and order[-2:] == [axes - 2, axes - 1] else None
    return Local() if name == "channel_shuffle" else None


def _pair(value: Any) -> Pair:
    given = [value] if isinstance(value, int) else list(value)
    return (given[0], given[-1])


def _reach(kernel: Pair, dilation: Pair) -> Pair:
    return dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1


def _convolution(node: Node, first: Node) -> RegionRule | None:
    weight, bias = node.argument("weight"), node.argument("bias")
    if not isinstance(weight, Tensor) or len(first.shape) != 3 or weight.ndim != 4 or isinstance(bias, Ref):
        return None
    stride, dilation = _pair(node.argument("stride")), _pair(node.argument("dilation"))
    groups, padding = node.argument("groups"), node.argument("padding")
    reach = _reach((weight.shape[2], weight.shape[3]), dilation)
    if isinstance(padding, str):  # PyTorch puts what is odd of `same` to the lower right.
        before = ((reach[0] - 1) // 2, (reach[1] - 1) // 2) if padding == "same" else (0, 0)
    else:
        before = _pair(padding)

    def run(x: Tensor, _: Any) -> Tensor:
        return F.conv2d(x, weight, bias, stride, 0, dilation, groups)

    return Window(reach, stride, before, 0.0, run)


def _max_pool(node: Node, first: Node) -> RegionRule | None:
    kernel, dilation = _pair(node.argument("kernel_size")), _pair(node.argument("dilation"))
    stride = _pair(node.argument("stride") or kernel)

    def run(x: Tensor, _: Any) -> Tensor:
        if stride == dilation == (1, 1):  # One axis after the other takes half the time, and makes no indices.
            return _maxima(_maxima(x, 2, kernel[0]), 3, kernel[1])
        return F.max_pool2d(x, kernel, stride, 0, dilation)

    if len(first.shape) != 3:
        return None
    return Window(_reach(kernel, dilation), stride, _pair(node.argument("padding")), -math.inf, run)


def _maxima(x: Tensor, axis: int, reach: int) -> Tensor:
    """Return the maximum of each `reach` neighbours on an axis."""
    length = x.shape[axis] - reach + 1
    found = x.narrow(axis, 0, length).clone()
    for i in range(1, reach):
        torch.maximum(found, x.narrow(axis, i, length), out=found)
    return found


def _avg_pool(node: Node, first: Node) -> RegionRule | None:
    kernel = _pair(node.argument("kernel_size"))
    stride, before = _pair(node.argument("stride") or kernel), _pair(node.argument("padding"))
    inside, fixed = not node.argument("count_include_pad"), node.argument("divisor_override")
    if len(first.shape) != 3:
        return None
    counts = []  # by axis: how many values each output is the mean of
    for length, out, k, s, p in zip(first.size, node.size, kernel, stride, before, strict=True):
        begin = torch.arange(out) * s - p
        end = (begin + k).clamp(max=length + p)
        counts.append(end.clamp(max=length) - begin.clamp(min=0) if inside else end - begin)
    usual = fixed or kernel[0] * kernel[1]
    uneven = not fixed and any(bool((count != k).any()) for count, k in zip(counts, kernel, strict=True))

    def run(x: Tensor, start: Any) -> Tensor:
        mean: Tensor = F.avg_pool2d(x, kernel, stride, divisor_override=usual)
        if not uneven:
            return mean
        y, x_ = (
            count.to(mean)[torch.as_tensor(start[:, axis])[:, None] + torch.arange(mean.shape[2 + axis])]
            for axis, count in enumerate(counts)
        )
        return mean.mul_(usual / (y[:, None, :, None] * x_[:, None, None, :]))

    return Window(kernel, stride, before, 0.0, run)


def _mean(node: Node, first: Node) -> RegionRule | None:
    if len(first.shape) != 3:
        return None
    if node.name == "mean":
        axes = {d % 4 for d in node.argument("dim") or ()}
        return Pooled() if axes == {2, 3} and node.argument("dtype") is None else None
    (h, w), (oh, ow) = first.size, node.size
    if (oh, ow) == (h, w):
        return Window((1, 1), (1, 1), (0, 0), 0.0, lambda x, _: x)
    if (oh, ow) == (1, 1):
        return Pooled()
    if h % oh or w % ow:
        return None  # The windows are of several sizes.
    kernel = (h // oh, w // ow)
    return Window(kernel, kernel, (0, 0), 0.0, lambda x, _: F.avg_pool2d(x, kernel))


def _border(node: Node) -> RegionRule | None:
    pad = [*node.argument("pad"), 0, 0]
    constant = node.name == "constant_pad_nd" or node.argument("mode") == "constant"
    if not constant or min(pad) < 0 or any(pad[4:]):
        return None
    return Shifted((pad[2], pad[0]))

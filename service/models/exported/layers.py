"""Graphs that are one layer of PyTorch's, as that layer: what it adds and how its kernel lies are asked of layers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

_CONVOLUTION = ("weight", "bias", "stride", "padding", "dilation", "groups")
_STATISTICS = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
# Functions that layers are, what they are given beside the input, and by what names the layers go.
_LAYERS: Mapping[Any, tuple[tuple[str, ...], tuple[type[nn.Module], ...]]] = {
    F.linear: (("weight", "bias"), (nn.Linear,)),
    F.conv1d: (_CONVOLUTION, (nn.Conv1d,)),
    F.conv2d: (_CONVOLUTION, (nn.Conv2d,)),
    F.conv3d: (_CONVOLUTION, (nn.Conv3d,)),
    F.conv_transpose2d: (
        ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
        (nn.ConvTranspose2d,),
    ),
    F.batch_norm: (_STATISTICS, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)),
}


def layer_of(module: nn.Module, graph: fx.Graph) -> nn.Module | None:
    """Return the layer of PyTorch's that a graph of functions is, with the graph's own weights; None where it is none.

    What a layer adds and how its kernel lies are asked of layers, and not of graphs.
    """
    calls = [node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    given = [node for node in graph.nodes if node.op == "placeholder"]
    if len(calls) != 1 or len(given) != 1 or graph.output_node().args[0] is not calls[0]:
        return None
    (call,) = calls
    if call.target not in _LAYERS or not call.args or call.args[0] is not given[0]:
        return None
    names, kinds = _LAYERS[call.target]
    said = dict(zip(names, call.args[1:], strict=False)) | dict(call.kwargs)
    kind = next((kind for kind in kinds if str(vars(module).get("_ty")).endswith(f".{kind.__name__}")), None)
    own = {**module._parameters, **module._buffers}
    taken = {name: str(one.target) for name, one in said.items() if isinstance(one, fx.Node)}
    if kind is None or any(name != target or own.get(name) is None for name, target in taken.items()):
        return None
    layer = _made(kind, {name: own[name] for name in taken}, said)
    if layer is None:
        return None
    layer.training = module.training
    layer._parameters.update(module._parameters)
    layer._buffers.update(module._buffers)
    layer._buffers.update({name: None for name in layer._buffers if name not in own})  # as of batches that were counted
    return layer if layer._parameters.keys() | layer._buffers.keys() >= own.keys() else None


def _made(kind: Any, own: Mapping[str, Any], said: Mapping[str, Any]) -> nn.Module | None:
    """Return a layer of a kind and of the sizes of some tensors; None where no such layer would call as was said."""
    w, bias, found = own.get("weight"), "bias" in own, None
    with torch.device("meta"):
        if "training" in said:
            mean = own.get("running_mean")
            if mean is not None and "running_var" in own and bias == (w is not None) and not said["training"]:
                found = kind(len(mean), said["eps"], said["momentum"], affine=bias)
        elif w is not None and kind is nn.Linear:
            found = kind(w.shape[1], w.shape[0], bias)
        elif w is not None:
            names = ("stride", "padding", "output_padding", "groups", "dilation")
            options = {name: tuple(v) if isinstance(v := said[name], list) else v for name in names if name in said}
            inner, outer = w.shape[1] * options.get("groups", 1), w.shape[0]
            channels = (outer, inner) if kind is nn.ConvTranspose2d else (inner, outer)
            found = kind(*channels, tuple(w.shape[2:]), bias=bias, **options)
    return found

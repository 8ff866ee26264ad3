"""Whether an exported or traced network was written down while it trained, which no `eval()` undoes any more."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from service.models.exported.graphs import graph_of
from service.models.networks import holding

_MODES = ("training", "train")  # what operators call the argument that says whether they train
_RATES = ("p", "dropout")  # and the one by which they draw nothing then, where it is zero
_SCRIPTED = ("batch_norm", "dropout", "dropout_", "feature_dropout", "alpha_dropout", "lstm", "gru", "rrelu")


def trained(network: nn.Module) -> str | None:
    """Return the name of an operator that goes on training in a graph, if there is one."""
    calls = _of_script(network) if isinstance(network, torch.jit.ScriptModule) else _of_graphs(network)
    for name, given in calls:
        idle = any(given.get(rate) == 0 for rate in _RATES)
        own = "norm" in name and given.get("running_mean") is None  # the picture's statistics, whether it trains or not
        if any(given.get(mode) is True for mode in _MODES) and not idle and not own:
            return name
    return None


def _of_graphs(network: nn.Module) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the operators that exported graphs call, and their arguments by name."""
    for _, module in holding.modules(network):
        graph = graph_of(module)
        for node in graph.nodes if graph is not None else ():
            if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
                schema: Any = node.target._schema
                names = [argument.name for argument in schema.arguments]
                yield schema.name.partition("::")[2], dict(zip(names, node.args, strict=False)) | node.kwargs


def _of_script(network: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the same of TorchScript; what `eval()` sets in a script is no constant, and stands for itself."""
    graph = network.inlined_graph  # its nodes live as long as it does
    for name in _SCRIPTED:
        for node in graph.findAllNodes(f"aten::{name}"):
            names = [argument.name for argument in torch._C.parse_schema(node.schema()).arguments]
            yield name, {name: _constant(value) for name, value in zip(names, node.inputs(), strict=False)}


def _constant(value: Any) -> Any:
    """Return the number that a value of a graph is, or None; the value itself where it is none of these."""
    known = value.toIValue()
    return value if known is None and value.type().kind() != "NoneType" else known

"""Exported graphs in the functions that people call, by which whoever watches or changes calls knows them.

A graph of `torch.export` calls operators, as `aten.relu.default`. These have other names than functions, some other
arguments, and once decomposed are others altogether: a rule for `F.relu` or `F.batch_norm` would not meet them, and
what it says of such a network would be wrong in silence.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import HigherOrderOperator
from torch.nn import functional as F

from service.models.exported.decomposed import OWN
from service.models.exported.layers import layer_of
from service.models.networks import holding

_C: Any = torch._C
_PLACES: tuple[Any, ...] = (F, torch, _C._nn, _C._linalg, _C._special, Tensor)  # those that people call come first
_WITHOUT = frozenset({"cudnn_enabled", "cudnn_enable"})  # arguments that functions fill in themselves
# Operators that no function stands for, and that are linear: they hand on, or choose among, what they are given.
_LINEAR = frozenset(
    {"slice", "index", "split", "split_with_sizes", "unsafe_split", "unsafe_chunk", "alias", "lift", "lift_fresh"}
    | {
        "index_put",
        "index_put_",
        "lift_fresh_copy",
        "meshgrid",
        "_unsafe_view",
        "_reshape_alias",
        "_to_copy",
        "_conj",
        "_unsafe_index",
    }
)


def spoken(network: nn.Module) -> None:
    """Let the graphs of an exported network call functions instead of operators, where there are such.

    Graphs that are one layer, with its weights, become that layer.
    """
    found = holding.modules(network)
    layers: dict[str, nn.Module] = {}
    several = {id(one) for _, module in found for one in vars(module).get("_call_modules", ())}  # ways of one module
    for path, module in found:
        graph = graph_of(module)
        if graph is None:
            continue
        for node in (*graph.nodes, *vars(module).get("input_placeholders", ())):
            node.meta.pop("val", None)  # shapes that were met at the export, in tensors that cannot be copied
            if _operator(node) is not None:
                _rewrite(node)
            elif isinstance(node.target, HigherOrderOperator):
                node.target = _WAYS.get(node.target.__name__, node.target)
        alone = type(module).__name__ == "InterpreterModule" and id(module) not in several
        if alone and (layer := layer_of(module, graph)) is not None:
            layers[path] = layer
        compiled = module if isinstance(module, fx.GraphModule) else vars(module).get("graph_module")
        if isinstance(compiled, fx.GraphModule):
            compiled.recompile()
    holding.replace(network, layers)


def unspoken(module: nn.Module) -> list[str]:
    """Return the operators of a graph that are left, whose kind nothing knows by its name."""
    graph = graph_of(module)
    names = (_operator(node) for node in graph.nodes) if graph is not None else ()
    return sorted({name for name in names if name is not None and name not in _LINEAR})


def graph_of(module: nn.Module) -> fx.Graph | None:
    """Return the graph that a module of an exported network runs; None where it runs none that can be read."""
    graph = getattr(module, "graph", None) if holding.is_graph(module) else None
    return graph if isinstance(graph, fx.Graph) else None


def _operator(node: fx.Node) -> str | None:
    """Return the name of PyTorch's own operator that a node calls on tensors to make others; None of any other one."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    schema = node.target._schema
    space, _, name = schema.name.partition("::")
    tensors = all(any("Tensor" in str(one.type) for one in side) for side in (schema.arguments, schema.returns))
    return name if space == "aten" and tensors else None


def _rewrite(node: fx.Node) -> None:
    schema: Any = node.target._schema  # type: ignore[union-attr]
    name = schema.name.partition("::")[2]
    if name in OWN:
        node.target = OWN[name]
        return
    if name.startswith(("_", "native_")) and not name.startswith("__"):
        return  # a part of a function, which nothing knows: a norm without its statistics, a kernel of a device
    if any(str(one.type) == "List[Optional[Tensor]]" for one in schema.arguments):
        return  # functions take no gaps in lists
    given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    in_place = name.endswith("_") and not name.endswith("__")
    ways = [(place, name, given) for place in _PLACES]
    if in_place:
        ways.insert(1, (F, name.removesuffix("_"), given | {"inplace": True}))
    for place, called, arguments in ways:
        function = getattr(place, _NAMES.get(called, called), None)
        if callable(function) and (found := _arranged(function, arguments, node)) is not None:
            node.target = function
            node.args, node.kwargs = found
            return


def _arranged(
    function: Callable[..., Any], given: Mapping[str, Any], node: fx.Node
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return arguments in the order that a function takes them in; None where it takes others."""
    if not isinstance(function, FunctionType):  # PyTorch's own bindings, which are made of the operators
        plain = not isinstance(function, type) and "inplace" not in given
        return (node.args, dict(node.kwargs)) if plain else None
    taken = list(inspect.signature(function).parameters)
    first = "self" if "self" in taken else "input"
    left = {first if name == "self" else name: value for name, value in given.items() if name not in _WITHOUT}
    if not left.keys() <= set(taken):
        return None
    count = next((i for i, name in enumerate(taken) if name not in left), len(taken))
    return tuple(left.pop(name) for name in taken[:count]), left


def _chosen(condition: Any, yes: Callable[..., Any], no: Callable[..., Any], given: Sequence[Any] = ()) -> Any:
    """Return what `cond` does, of one of two functions, which whoever watches calls meets then."""
    return (yes if condition else no)(*given)


def _repeated(
    going_on: Callable[..., Any], step: Callable[..., Any], given: Sequence[Any], beside: Sequence[Any] = ()
) -> Any:
    """Return what `while_loop` does."""
    values = tuple(given)
    while going_on(*values, *beside):
        values = tuple(step(*values, *beside))
    return values


_WAYS: Mapping[str, Callable[..., Any]] = {"cond": _chosen, "while_loop": _repeated}
_NAMES: Mapping[str, str] = {"log_sigmoid": "logsigmoid"}

"""Writing a forward down, operator by operator, so that it can be repeated on other rows and on parts of maps.

The forward is watched at PyTorch's dispatcher, so that it does not matter how the network is written: modules,
functions and methods all end there. It runs on the thread that calls, and changes nothing of the network.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator

from service.engine.incremental.recording.graph import Node, NotIncremental, Recording, Ref, refs
from service.engine.incremental.recording.operators import annotate, is_dropout, overwriting
from service.engine.network.dispatch import Dispatch

# Rows of the batch that is watched. Few axes have this extent, so that most operators that mix rows show by the
# extent of their output's first axis. The proof finds those that do not.
_ROWS = 3
_MIXED = (-1,)  # the shape of a value that has no axis of rows


class _Writing(Dispatch):  # type: ignore[no-untyped-call]
    """Writes down every operator that the picture reaches."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes = [Node(0, None, (), {}, tuple(x.shape[1:]), (), is_map=True)]
        self.known: dict[int, int] = {id(x): 0}  # node by the id of its tensor
        self.held: list[Any] = [x]  # tensors are kept alive, so that their ids stay their own
        self.storages: dict[int, set[int]] = {x.untyped_storage().data_ptr(): {id(x)}}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if isinstance(func, HigherOrderOperator):
            raise NotIncremental(f"{func.__name__} is given functions, inside of which nothing is met")
        args, kwargs = self._named(func, args, kwargs)
        inputs = tuple(dict.fromkeys(refs(args) + refs(kwargs)))
        if not inputs:
            return out
        overwrites = func._schema.is_mutable
        if overwrites:
            func = self._functional(func, args, out)
        parts = out if isinstance(out, (list, tuple)) else [out]
        for i, part in enumerate(parts):
            if part is None:
                continue
            if not isinstance(part, Tensor):
                raise NotIncremental(f"{func} makes a decision on the values of the picture")
            if id(part) in self.known and (not overwrites or is_dropout(func)):
                continue  # The operator returned its input, which has its node.
            shape = tuple(part.shape[1:]) if part.ndim and part.shape[0] == _ROWS else _MIXED
            index = len(self.nodes)
            self.nodes.append(Node(index, func, args, kwargs, shape, inputs, pick=i if parts is out else None))
            self.known[id(part)] = index
            self.held.append(part)
            self.storages.setdefault(part.untyped_storage().data_ptr(), set()).add(id(part))
        return out

    def _named(self, func: Any, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return all arguments, defaults filled in, with references for what the picture has reached."""
        full, named = [], {}
        for i, a in enumerate(func._schema.arguments):
            value = args[i] if i < len(args) else kwargs.get(a.name, a.default_value)
            if a.kwarg_only:
                named[a.name] = self._referred(value)
            else:
                full.append(self._referred(value))
        return tuple(full), named

    def _referred(self, a: Any) -> Any:
        if isinstance(a, Tensor):
            return Ref(self.known[id(a)]) if id(a) in self.known else a
        return [self._referred(b) for b in a] if isinstance(a, (list, tuple)) else a

    def _functional(self, func: Any, args: Any, out: Any) -> Any:
        """Return the operator that leaves its input alone, for one that overwrites its first one."""
        packet = func.overloadpacket.__name__
        if is_dropout(func) and not args[2]:
            return func
        plain = getattr(torch.ops.aten, packet.removesuffix("_"), None)
        if not packet.endswith("_") or plain is None or func._overloadname not in plain.overloads():
            raise NotIncremental(f"{packet} overwrites a tensor")
        written = out if isinstance(out, Tensor) else None
        if written is None or id(written) not in self.known:
            raise NotIncremental(f"{packet} writes the picture into a constant")
        if len(self.storages[written.untyped_storage().data_ptr()]) > 1:
            raise NotIncremental(f"{packet} overwrites a view of another tensor")
        return getattr(plain, func._overloadname)


@torch.inference_mode()
def write_down(module: nn.Module, example: Tensor) -> Recording:
    """Return the operators between the picture and the outputs, in the order of the forward.

    Args:
        module: maps (N, C, H, W) to (N, K).
        example: (N, C, H, W); its first row is watched.

    Raises:
        NotIncremental: the network's operators cannot be repeated on other rows.
    """
    x = example[:1].expand(_ROWS, -1, -1, -1).clone()
    writing = _Writing(x)
    with writing:
        out = module(x)
    if not isinstance(out, Tensor) or out.ndim != 2 or id(out) not in writing.known:
        raise NotIncremental("the network does not return one (N, outputs) tensor that depends on the picture")
    nodes = _live(writing.nodes, writing.known[id(out)])
    readers = [0] * len(nodes)
    for node in nodes:
        if node.shape == _MIXED:
            raise NotIncremental(f"{node.name} mixes the rows of a batch")
        for i in node.inputs:
            readers[i] += 1
    for node in nodes[1:]:
        annotate(node, nodes)
        node.inplace = overwriting(node, nodes, readers)
    last_reader = {i: node.index for node in nodes for i in node.inputs}
    done_with: dict[int, tuple[int, ...]] = {}
    for read, reader in last_reader.items():
        done_with[reader] = (*done_with.get(reader, ()), read)
    furthest, reason = _furthest(nodes)
    return Recording(tuple(nodes), (example.shape[2], example.shape[3]), furthest, reason, done_with)


def _live(nodes: list[Node], last: int) -> list[Node]:
    """Return the nodes that `last` depends on, numbered anew; the first stays the picture."""
    wanted = {0, last}
    for node in reversed(nodes[: last + 1]):
        if node.index in wanted:
            wanted.update(node.inputs)
    number = {old: new for new, old in enumerate(sorted(wanted))}

    def renumbered(a: Any) -> Any:
        if isinstance(a, Ref):
            return Ref(number[a.node])
        return [renumbered(b) for b in a] if isinstance(a, (list, tuple)) else a

    kept = [nodes[i] for i in sorted(wanted)]
    for node in kept:
        node.index = number[node.index]
        node.args = tuple(renumbered(a) for a in node.args)
        node.kwargs = {k: renumbered(a) for k, a in node.kwargs.items()}
        node.inputs = tuple(number[i] for i in node.inputs)
    return kept


def _furthest(nodes: Sequence[Node]) -> tuple[int, str]:
    """Return the first node that needs whole maps, and why."""
    for node in nodes[1:]:
        if node.rule is None:
            kinds = {nodes[i].is_map for i in node.inputs}
            why = "combines maps with values of whole maps" if len(kinds) > 1 else "reads whole maps"
            return node.index, f"operator {node.index} of {len(nodes) - 1}, {node.name}, {why}"
    return len(nodes), "no operator reads whole maps"

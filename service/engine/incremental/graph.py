"""What a network computes, written down operator by operator, and which operators a changed region passes through.

One forward is watched at the dispatcher, so that it does not matter how the network is written. An operator is local
where each value of its output depends on few neighbouring values of its inputs, all channels together: convolution,
pooling, normalisation by fixed statistics, activations, sums, concatenations, and views that leave the last two axes
alone. Gates, attention, group and layer norms read whole maps; from the first of them on, maps are computed whole.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

Pair = tuple[int, int]


class NotIncremental(Exception):
    """Regions cannot be followed through this network; the message says why."""


@dataclass(frozen=True)
class Ref:
    """Stands for another node's value among an operator's arguments."""

    node: int


@dataclass(frozen=True)
class Local:
    """Output region = input region, that of the union where there are several inputs."""


@dataclass(frozen=True)
class Joined:
    """A concatenation of channels."""


@dataclass(frozen=True)
class Shifted:
    """A border of constants around the map: the region keeps its values and moves."""

    before: Pair


@dataclass(frozen=True)
class Pooled:
    """The mean over the map: one value a channel, updated by what changed."""


@dataclass(frozen=True)
class Window:
    """Output (y, x) reads `reach` input values from (y, x) * stride - before on."""

    reach: Pair
    stride: Pair
    before: Pair
    fill: float  # what lies outside the map
    run: Callable[[Tensor, Any], Tensor] = field(compare=False)  # the operator without padding, of x and starts (N, 2)

    @property
    def pointwise(self) -> bool:
        """Whether output (y, x) reads input (y, x) only."""
        return self.reach == self.stride == (1, 1) and self.before == (0, 0)


Rule = Local | Joined | Shifted | Pooled | Window


@dataclass
class Node:
    """One operator's call; its value is (N, *shape)."""

    index: int
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[int, ...]
    inputs: tuple[int, ...]
    pick: int | None = None  # which one, of several outputs
    map: bool = False  # whether the last two axes are those of a map
    rule: Rule | None = None
    macs: int = 0
    inplace: Any = None  # the operator that overwrites its first input, where nobody else reads that

    @property
    def name(self) -> str:
        """The operator, as `conv2d`."""
        return str(self.func.overloadpacket.__name__) if hasattr(self.func, "overloadpacket") else "input"

    @property
    def size(self) -> Pair:
        """Height and width of the map."""
        return self.shape[-2], self.shape[-1]

    def argument(self, name: str) -> Any:
        """Return an argument by its name in the operator's schema."""
        position = [a.name for a in self.func._schema.arguments].index(name)
        return self.args[position] if position < len(self.args) else self.kwargs[name]

    def call(self, values: Sequence[Tensor], rows: int, size: Pair | None = None, *, overwrite: bool = False) -> Tensor:
        """Return the value for other inputs, in the order of `inputs`: other rows, and maps of another size."""
        given = dict(zip(self.inputs, values, strict=True))
        args = [_with(given, a) for a in self.args]
        result: Any
        if self.name in _RESHAPING:
            result = args[0].reshape([rows, *self.shape[:-2], *size] if size else [rows, *self.shape])
        elif self.name == "contiguous":  # a matter of layout, which is ours
            result = args[0]
        else:
            func = self.inplace if overwrite and self.inplace is not None else self.func
            result = func(*args, **_with(given, self.kwargs))
        value: Tensor = result if self.pick is None else result[self.pick]
        return value


def _with(given: Mapping[int, Tensor], a: Any) -> Any:
    if isinstance(a, Ref):
        return given[a.node]
    if isinstance(a, (list, tuple)):
        return [_with(given, b) for b in a]
    return {k: _with(given, b) for k, b in a.items()} if isinstance(a, dict) else a


def _refs(a: Any) -> list[int]:
    if isinstance(a, Ref):
        return [a.node]
    if isinstance(a, dict):
        a = list(a.values())
    return [i for b in a for i in _refs(b)] if isinstance(a, (list, tuple)) else []


_ROWS = 3  # of the batch that is watched: no usual extent of another axis


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes note of every operator that the input reaches."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes = [Node(0, None, (), {}, tuple(x.shape[1:]), (), map=True)]
        self.known: dict[int, int] = {id(x): 0}  # node by the id of its tensor
        self.held: list[Any] = [x]  # so that ids stay their own
        self.storages: dict[int, set[int]] = {x.untyped_storage().data_ptr(): {id(x)}}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        args, kwargs = self._named(func, args, kwargs)
        inputs = tuple(dict.fromkeys(_refs(args) + _refs(kwargs)))
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
            if id(part) in self.known and (not overwrites or _is_dropout(func)):
                continue  # returned its input
            index = len(self.nodes)
            pick = i if parts is out else None
            self.nodes.append(Node(index, func, args, kwargs, tuple(part.shape[1:]), inputs, pick))
            if part.ndim == 0 or part.shape[0] != _ROWS:
                self.nodes[-1].shape = (-1,)
            self.known[id(part)] = index
            self.held.append(part)
            self.storages.setdefault(part.untyped_storage().data_ptr(), set()).add(id(part))
        return out

    def _named(self, func: Any, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return all arguments, defaults filled in, with references for what the input has reached."""
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
        if _is_dropout(func) and not args[2]:
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


def _is_dropout(func: Any) -> bool:
    return func.overloadpacket.__name__.removesuffix("_") in _DROPOUT


def record(module: nn.Module, example: Tensor) -> list[Node]:
    """Return the operators between the picture and the outputs, in the order of the forward; the last gives (N, K).

    Raises:
        NotIncremental: the network's operators cannot be repeated on other rows.
    """
    x = example[:1].expand(_ROWS, -1, -1, -1).clone()
    recorder = _Recorder(x)
    with torch.inference_mode(), recorder:
        out = module(x)
    if not isinstance(out, Tensor) or out.ndim != 2 or id(out) not in recorder.known:
        raise NotIncremental("the network does not return one (N, outputs) tensor that depends on the picture")
    nodes = _live(recorder.nodes, recorder.known[id(out)])
    readers = [0] * len(nodes)
    for node in nodes:
        if node.shape == (-1,):
            raise NotIncremental(f"{node.name} mixes the rows of a batch")
        for i in node.inputs:
            readers[i] += 1
    for node in nodes[1:]:
        _annotate(node, nodes)
        first = node.args[0] if node.args else None
        if node.name in _POINTWISE and isinstance(first, Ref) and readers[first.node] == 1 and len(node.inputs) == 1:
            fresh = nodes[first.node].name in _FRESH
            packet = getattr(torch.ops.aten, node.name + "_", None)
            if fresh and packet is not None and node.func._overloadname in packet.overloads():
                node.inplace = getattr(packet, node.func._overloadname)
    return nodes


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


# Which rule an operator follows

_POINTWISE = frozenset(
    [
        "abs",
        "add",
        "alias",
        "batch_norm",
        "celu",
        "clamp",
        "clamp_max",
        "clamp_min",
        "clone",
        "contiguous",
        "detach",
        "div",
        "dropout",
        "elu",
        "exp",
        "feature_dropout",
        "gelu",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "log_sigmoid",
        "maximum",
        "minimum",
        "mish",
        "mul",
        "neg",
        "pow",
        "prelu",
        "relu",
        "relu6",
        "rsqrt",
        "rsub",
        "selu",
        "sigmoid",
        "silu",
        "softplus",
        "sqrt",
        "square",
        "sub",
        "tanh",
        "threshold",
    ]
)
_DROPOUT = frozenset(["dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"])
_RESHAPING = frozenset(["view", "reshape", "_unsafe_view", "flatten", "unflatten"])
_FRESH = frozenset(["conv2d", "convolution", "batch_norm", "add", "cat", "linear", "avg_pool2d"])  # no views


def _annotate(node: Node, nodes: Sequence[Node]) -> None:
    """Find a node's rule; none where it reads whole maps."""
    if node.name in ("conv2d", "convolution"):
        weight = node.argument("weight")
        node.macs = math.prod(node.shape) * math.prod(weight.shape[1:]) if isinstance(weight, Tensor) else 0
    elif node.name == "linear":
        node.macs = math.prod(node.shape) * nodes[node.inputs[0]].shape[-1]
    maps = [nodes[i].map for i in node.inputs]
    if not any(maps):  # values of a row as a whole
        node.rule = Local()
    elif all(maps):
        node.rule = _rule(node, [nodes[i] for i in node.inputs])
        node.map = node.rule is not None and not isinstance(node.rule, Pooled)


def _rule(node: Node, inputs: Sequence[Node]) -> Rule | None:
    name, first = node.name, inputs[0]
    if name in _POINTWISE:
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
    return _channels(node, first)


def _pointwise(node: Node, inputs: Sequence[Node]) -> Rule | None:
    if any(i.shape != node.shape for i in inputs):
        return None
    if node.name == "batch_norm":
        return Local() if len(node.shape) == 3 and not node.argument("training") else None
    if node.name == "prelu":
        return Local() if len(node.shape) == 3 else None
    constants = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, Tensor)]
    alike = all(a.ndim == 0 or a.numel() == 1 or (a.ndim >= 2 and a.shape[-2:] == (1, 1)) for a in constants)
    return Local() if alike else None


def _channels(node: Node, first: Node) -> Rule | None:
    """Views and selections of channels: fine where the last two axes keep their place."""
    name, axes = node.name, len(first.shape) + 1
    if name in _RESHAPING:
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


def _convolution(node: Node, first: Node) -> Rule | None:
    weight, bias = node.argument("weight"), node.argument("bias")
    if not isinstance(weight, Tensor) or len(first.shape) != 3 or weight.ndim != 4 or isinstance(bias, Ref):
        return None
    stride, dilation = _pair(node.argument("stride")), _pair(node.argument("dilation"))
    groups, padding = node.argument("groups"), node.argument("padding")
    reach = _reach((weight.shape[2], weight.shape[3]), dilation)
    if isinstance(padding, str):  # what is odd of `same` goes to the lower right
        before = ((reach[0] - 1) // 2, (reach[1] - 1) // 2) if padding == "same" else (0, 0)
    else:
        before = _pair(padding)
    weight = weight.contiguous(memory_format=torch.channels_last)
    node.args = tuple(weight if a is node.argument("weight") else a for a in node.args)

    def run(x: Tensor, _: Any) -> Tensor:
        return F.conv2d(x, weight, bias, stride, 0, dilation, groups)

    return Window(reach, stride, before, 0.0, run)


def _max_pool(node: Node, first: Node) -> Rule | None:
    kernel, dilation = _pair(node.argument("kernel_size")), _pair(node.argument("dilation"))
    stride = _pair(node.argument("stride") or kernel)

    def run(x: Tensor, _: Any) -> Tensor:
        if stride == dilation == (1, 1):  # one axis after the other: half the time, and no indices
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


def _avg_pool(node: Node, first: Node) -> Rule | None:
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


def _mean(node: Node, first: Node) -> Rule | None:
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
        return None  # windows of several sizes
    kernel = (h // oh, w // ow)
    return Window(kernel, kernel, (0, 0), 0.0, lambda x, _: F.avg_pool2d(x, kernel))


def _border(node: Node) -> Rule | None:
    pad = [*node.argument("pad"), 0, 0]
    constant = node.name == "constant_pad_nd" or node.argument("mode") == "constant"
    if not constant or min(pad) < 0 or any(pad[4:]):
        return None
    return Shifted((pad[2], pad[0]))

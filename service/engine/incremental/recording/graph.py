"""What a written-down network consists of: the calls of its operators, and the rules by which regions pass them.

Sizes, strides and offsets are (y, x), as the last two axes of a tensor are. A map is a feature map (C, h, w).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Pair = tuple[int, int]
FLOAT = 4
"""Bytes of a value."""
RESHAPING = frozenset(["view", "reshape", "_unsafe_view", "flatten", "unflatten"])
"""Operators that say the shape of their output, which another number of rows or another size of map changes."""


class NotIncremental(Exception):
    """Regions cannot be followed through this network; the message says why."""


@dataclass(frozen=True)
class Ref:
    """Stands for another node's value among an operator's arguments."""

    node: int


@dataclass(frozen=True)
class Local:
    """The region of the output is that of the input, or the smallest that holds those of all inputs."""


@dataclass(frozen=True)
class Joined:
    """A concatenation of channels: the region is the smallest that holds those of all inputs."""


@dataclass(frozen=True)
class Shifted:
    """A border of constants around the map: the region keeps its values and moves."""

    before: Pair


@dataclass(frozen=True)
class Pooled:
    """The mean over the map: one value a channel, to which a change adds."""


@dataclass(frozen=True)
class Window:
    """Output (y, x) reads `reach` input values from (y, x) * stride - before on."""

    reach: Pair
    stride: Pair
    before: Pair
    fill: float  # the value that stands for what lies outside the map
    # The operator without padding: of x (N, C, h, w) and where the rows' outputs begin in the whole map, (N, 2).
    run: Callable[[Tensor, Any], Tensor] = field(compare=False)

    @property
    def pointwise(self) -> bool:
        """Whether output (y, x) reads input (y, x) only."""
        return self.reach == self.stride == (1, 1) and self.before == (0, 0)


RegionRule = Local | Joined | Shifted | Pooled | Window
"""How a change of the inputs spreads to the output."""


@dataclass
class Node:
    """One call of an operator; its value is (N, *shape). Nothing of it changes once its network is written down."""

    index: int
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[int, ...]
    inputs: tuple[int, ...]
    pick: int | None = None  # the number of the output, where the operator returns several
    is_map: bool = False  # whether the last two axes are those of a map
    rule: RegionRule | None = None  # None: the operator reads whole maps
    macs: int = 0  # multiplications of a row
    inplace: Any = None  # the operator that overwrites its first input, where no other node reads that

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
        args = [_filled_in(given, a) for a in self.args]
        result: Any
        if self.name in RESHAPING:
            result = args[0].reshape([rows, *self.shape[:-2], *size] if size else [rows, *self.shape])
        elif self.name == "contiguous":  # The order in memory is chosen here, not by the network.
            result = args[0]
        else:
            func = self.inplace if overwrite and self.inplace is not None else self.func
            result = func(*args, **_filled_in(given, self.kwargs))
        value: Tensor = result if self.pick is None else result[self.pick]
        return value


@dataclass(frozen=True)
class Recording:
    """A forward written down: the first node is the picture, and the last one's value are the outputs (N, K)."""

    nodes: tuple[Node, ...]
    size: Pair  # of the picture, the only one that the nodes can be called for
    furthest: int  # the first node that reads whole maps; the number of nodes where none does
    reason: str  # why it reads them
    done_with: Mapping[int, tuple[int, ...]]  # by node, those whose values nobody reads after it

    @property
    def macs(self) -> int:
        """Multiplications of a row."""
        return sum(node.macs for node in self.nodes)

    def crossing(self, switch: int) -> list[int]:
        """Return the nodes before a switch that are read from there on."""
        return sorted({i for node in self.nodes[switch:] for i in node.inputs if i < switch})


def refs(a: Any) -> list[int]:
    """Return the nodes that an argument refers to."""
    if isinstance(a, Ref):
        return [a.node]
    if isinstance(a, dict):
        a = list(a.values())
    return [i for b in a for i in refs(b)] if isinstance(a, (list, tuple)) else []


def _filled_in(given: Mapping[int, Tensor], a: Any) -> Any:
    if isinstance(a, Ref):
        return given[a.node]
    if isinstance(a, (list, tuple)):
        return [_filled_in(given, b) for b in a]
    return {k: _filled_in(given, b) for k, b in a.items()} if isinstance(a, dict) else a

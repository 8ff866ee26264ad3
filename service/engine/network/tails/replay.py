"""What a network computes before a layer, noted once, and handed on again without computing it.

A forward is the same calls of functions in the same order each time. `Noting` notes what each of them returned until
the layer has answered; `Replaying` hands that on in another forward, so that the network's own code runs, and nothing
before the layer is computed. Of what was noted only that is kept that the network can still get hold of then, which is
what goes around the layer: of all else a stub with its shape.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from service.engine.network.capture import Tape


class AnotherWay(RuntimeError):
    """A network made other calls than it had made before."""


@dataclass(frozen=True)
class Prefix:
    """A forward of one picture up to a layer."""

    image: Tensor  # (1, C, H, W)
    calls: list[Any]  # what each call returned, (1, ...) where it is the picture's
    output: Tensor  # what the layer answered, (1, ...), as it lies in the network


class Start(Tape):
    """A tape that lets something else take a layer's place: the network goes on with what `reached` makes of it."""

    def __init__(self, layer: str, repeated: frozenset[str], reached: Callable[[Tensor], Tensor]) -> None:
        super().__init__([layer], repeated=repeated)
        self.reached = reached

    def keep(self, address: str, output: Tensor) -> Tensor:
        """Return what the network goes on with."""
        return self.reached(output)


@dataclass(frozen=True)
class _Noted:
    """A tensor that a call returned, for as long as anybody else holds it."""

    tensor: "weakref.ref[Tensor]"
    stub: Tensor

    def settled(self) -> Tensor:
        """Return the tensor, or a stub that has its shape, where nobody can get hold of it any more."""
        tensor = self.tensor()
        return self.stub if tensor is None else tensor.detach()


class Noting(TorchFunctionMode):
    """Notes what calls return, until it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Any] = []
        self.over = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call, and note what it returns."""
        result = func(*args, **(kwargs or {}))
        if not self.over:
            self.notes.append(tree_map(_noted, result))
        return result

    def settled(self) -> list[Any]:
        """End noting; return what each call returned, as far as it is within reach."""
        self.over = True
        found, self.notes = [tree_map(_settled, note) for note in self.notes], []
        return found


def _noted(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return _Noted(weakref.ref(value), torch.empty((), dtype=value.dtype, device=value.device).expand(value.shape))


def _settled(value: Any) -> Any:
    return value.settled() if isinstance(value, _Noted) else value


class Replaying(TorchFunctionMode):
    """Hands on what calls returned before; once `over`, they are made.

    Args:
        prefix: of one picture.
        rows: how many there are behind the layer.
        expands: whether what is the picture's is handed on once for each row.
    """

    def __init__(self, prefix: Prefix, rows: int, *, expands: bool) -> None:
        super().__init__()
        self.prefix, self.rows, self.expands = prefix, rows, expands
        self.over = False
        self._next = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hand on what the call returned before, or make it."""
        if self.over:
            return func(*args, **(kwargs or {}))
        if self._next == len(self.prefix.calls):
            raise AnotherWay("the network makes other calls before the layer than it made before")
        self._next += 1
        return tree_map(self._handed_on, self.prefix.calls[self._next - 1])

    def _handed_on(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.numel() or 0 in value.stride():
            return value  # a stub: nothing that is computed
        if self.expands and value.ndim and len(value) == 1:
            value = value.expand(self.rows, *value.shape[1:])
        return value.clone()  # what comes behind may write to it

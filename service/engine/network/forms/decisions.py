"""Whether a network decides by the values of its pictures what it computes: then pictures cannot share a batch."""

from typing import Any

from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from service.engine.network.dispatch import Dispatch, storage

# What is asked of a tensor's shape, as compiled and exported networks do by operators: no value of the picture.
_SHAPES = frozenset({"size", "stride", "numel", "dim", "storage_offset"})

_WAYS = frozenset({"cond", "while_loop"})  # operators that choose what to compute by what they are given


class Decisions(Dispatch):  # type: ignore[no-untyped-call]
    """Watches one forward for values of the picture that are taken out of tensors, as by `if x.mean() > 0`.

    A branch that is taken for a whole batch is the others' picture's, too. On pictures of noise all may take the same
    one, so that answers alone and among others agree, and nothing but this shows it.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []  # the operators that took values out
        self.closed: list[str] = []  # those that are given functions, inside of which nothing is met
        self._reached = _Reached()
        self._reached.add(x)
        # Not told of this one: two that hold each other would hold all the activations until garbage is searched for.
        self._taking = _Taking(self._reached, self.found)

    def __enter__(self) -> "Decisions":
        """Begin to watch."""
        super().__enter__()  # type: ignore[no-untyped-call]
        self._taking.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        """End it."""
        self._taking.__exit__(*raised)  # type: ignore[no-untyped-call]
        super().__exit__(*raised)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and note what it makes of the picture."""
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "overloadpacket", func).__name__
        if isinstance(func, HigherOrderOperator):
            self.closed.append(name)
        if name.removeprefix("sym_") in _SHAPES:
            return out
        given = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        if any(tensor in self._reached for tensor in given):
            if name in _WAYS:
                self.found.append(name)
            for part in tree_leaves(out):
                if isinstance(part, Tensor):
                    self._reached.add(part)
                elif isinstance(part, bool | int | float):
                    self.found.append(name)
        return out


class _Reached:
    """The tensors that the picture has reached."""

    def __init__(self) -> None:
        self._held: list[Tensor] = []  # alive, so that their memory stays their own
        self._begin: set[int] = set()  # where it begins

    def __contains__(self, tensor: Tensor) -> bool:
        return _memory(tensor) in self._begin

    def add(self, tensor: Tensor) -> None:
        """Add a tensor, and whatever else lies in its memory."""
        self._begin.add(_memory(tensor))
        self._held.append(tensor)


# What hands memory on to Python or NumPy as it lies, of which the dispatcher hears nothing.
_HANDS_OVER = frozenset({"tolist", "numpy", "__array__", "__dlpack__"})


class _Taking(TorchFunctionMode):
    """Tells of values that are taken out as lists and arrays."""

    def __init__(self, reached: _Reached, found: list[str]) -> None:
        super().__init__()
        self._reached, self._found = reached, found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call, and take note of it."""
        name = getattr(func, "__name__", "")
        if name in _HANDS_OVER and args and isinstance(args[0], Tensor) and args[0] in self._reached:
            self._found.append(name)
        return func(*args, **(kwargs or {}))


def _memory(tensor: Tensor) -> int:
    """Return where a tensor's memory begins; its number where it has none."""
    held = storage(tensor)
    return (0 if held is None else held.data_ptr()) or id(tensor)

"""Whether a network decides by the values of its pictures what it computes: then pictures cannot share a batch."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from service.engine.network.dispatch import Dispatch


class Decisions(Dispatch):  # type: ignore[no-untyped-call]
    """Watches one forward for values of the picture that are taken out of tensors, as by `if x.mean() > 0`.

    A branch that is taken for a whole batch is the others' picture's, too. On pictures of noise all may take the same
    one, so that answers alone and among others agree, and nothing but this shows it.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []  # the operators that took values out
        self._held: list[Tensor] = []  # alive, so that their memory stays their own
        self._reached: set[int] = set()  # where the memory begins that the picture has reached
        self._reach(x)

    def _reach(self, tensor: Tensor) -> None:
        self._reached.add(_memory(tensor))
        self._held.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and note what it makes of the picture."""
        out = func(*args, **(kwargs or {}))
        given = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        if any(_memory(tensor) in self._reached for tensor in given):
            for part in tree_leaves(out):
                if isinstance(part, Tensor):
                    self._reach(part)
                elif isinstance(part, bool | int | float):
                    self.found.append(func.overloadpacket.__name__)
        return out


def _memory(tensor: Tensor) -> int:
    """Return where a tensor's memory begins; its number where it has none."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # sparse and opaque ones
        return id(tensor)

"""How much memory a forward needs."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from service.engine.network.dispatch import Dispatch


class _Live(Dispatch):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are made within the block, those alive at its most crowded moment."""

    def __init__(self, resident: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._known = {tensor.untyped_storage().data_ptr() for tensor in resident}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        found = function(*arguments, **(options or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                at, size = storage.data_ptr(), storage.nbytes()
                if size and at not in self._known:
                    self._known.add(at)
                    self._now += size
                    self.peak = max(self.peak, self._now)
                    weakref.finalize(storage, self._freed, at, size)
        return found

    def _freed(self, at: int, size: int) -> None:
        self._known.discard(at)
        self._now -= size


def counting(module: nn.Module) -> _Live:
    """Return a block whose `peak` is the bytes of the tensors made in it that are alive at its most crowded moment."""
    return _Live([*module.parameters(), *module.buffers()])  # views of these are not made by a forward


def live_bytes(module: nn.Module, x: Tensor) -> int:
    """Return the bytes of the tensors alive at the most crowded moment of a forward of x (N, 3, H, W).

    What an allocator takes for them is more: on a CPU, where libraries lay maps out anew for their kernels and holes
    are left between them, about twice as much.
    """
    with torch.inference_mode(), counting(module) as live:
        module(x.clone())
    peak: int = live.peak
    return peak

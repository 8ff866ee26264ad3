"""How much memory a forward needs, and a trace, which keeps what its backwards take."""

import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from service.contract import Trace
from service.engine.network.dispatch import Dispatch, storage
from service.models.networks import holding
from service.process import out_of_memory

_KINDS = 1024  # of traces that are known at once: callers name layers as they like
_COLUMN = 2  # times the gradients of a further column: as they are found, and as they are handed on


class _Live(Dispatch):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are made within the block, those alive at its most crowded moment."""

    def __init__(self, resident: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._known = {held.data_ptr() for tensor in resident if (held := storage(tensor)) is not None}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        found = function(*arguments, **(options or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and (held := storage(tensor)) is not None:
                at, size = held.data_ptr(), held.nbytes()
                if size and at not in self._known:
                    self._known.add(at)
                    self._now += size
                    self.peak = max(self.peak, self._now)
                    weakref.finalize(held, self._freed, at, size)
        return found

    def _freed(self, at: int, size: int) -> None:
        self._known.discard(at)
        self._now -= size


def counting(module: nn.Module) -> _Live:
    """Return a block whose `peak` is the bytes of the tensors made in it that are alive at its most crowded moment."""
    return _Live(holding.tensors(module).values())  # views of these are not made by a forward


def live_bytes(module: nn.Module, x: Tensor) -> int:
    """Return the bytes of the tensors alive at the most crowded moment of a forward of x (N, 3, H, W).

    What an allocator takes for them is more: on a CPU, where libraries lay maps out anew for their kernels and holes
    are left between them, about twice as much.
    """
    with torch.no_grad(), counting(module) as live:
        module(x.clone())
    peak: int = live.peak
    return peak


class TraceBytes:
    """Bytes of the tensors alive for each row of a trace, by its kind: the first batch of a kind is counted."""

    def __init__(self, row_bytes: int) -> None:
        """Begin with nothing but a forward's bytes for a row, which stand in for what cannot be counted."""
        self._forward = row_bytes
        self._known: dict[Hashable, tuple[int, int]] = {}  # bytes, with so many columns of the objective

    def of(self, kind: Hashable) -> int | None:
        """Return what is known of a kind, with the most columns that were met."""
        known = self._known.get(kind)
        return None if known is None else known[0]

    def counted(
        self, kind: Hashable, module: nn.Module, rows: int, call: Callable[[], list[Trace | Exception]]
    ) -> list[Trace | Exception]:
        """Return the traces that a call makes of so many rows, and learn from it what they take."""
        known = self._known.get(kind)
        peak = None
        if known is None:
            try:
                with counting(module) as live:
                    found = call()
                peak = live.peak
            except Exception as error:  # it may be what counts that it does not run under
                if out_of_memory(error):
                    raise
                found = call()
        else:
            found = call()
        traces = [one for one in found if isinstance(one, Trace)]
        if not traces:
            return found
        widest = max(traces, key=lambda one: one.objective.shape[1])
        columns = widest.objective.shape[1]
        if known is None:
            while len(self._known) >= _KINDS:
                del self._known[next(iter(self._known))]
            self._known[kind] = 4 * self._forward if peak is None else -(-peak // rows), columns
        elif columns > known[1]:
            one = sum(g.nbytes for g in widest.gradients.values()) // (columns * len(widest.outputs))
            self._known[kind] = known[0] + _COLUMN * one * (columns - known[1]), columns
        return found

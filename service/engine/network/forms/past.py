"""What a network keeps from one forward to the next beside its parameters, and how to put it back."""

import copy
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from types import CellType
from typing import Any

import torch
from torch import Tensor, nn

from service.models.networks import enclosed, holding
from service.models.networks.forms import BlackBox

_EVERY = frozenset(nn.Module().__dict__)  # attributes that each module has, whatever it is
# Of these, the tables: of hooks, parts and weights, to which a first forward may add, and set a flag that it has.
_TABLES = [key for key, value in nn.Module().__dict__.items() if isinstance(value, dict | set) and key != "_buffers"]
_CONTAINERS = (dict, list, set, deque)
_MOST_BYTES = 2**28  # of the tensors and arrays beside a network that are copied
_PLAIN = (bool, int, float, str)


class Past:
    """A network's buffers, other attributes, hooks and parts, as they are when this is made.

    So is what lies in containers and objects that are no modules, and what functions share with what is around them.
    What is in objects of libraries, or without a `__dict__`, is not seen.
    """

    def __init__(self, network: nn.Module) -> None:
        """Take note of all of them; tensors are copied."""
        self.network = network
        self._held = [
            (path, holder, {key: (value, _copied(value)) for key, value in _own(holder)})
            for path, module in holding.modules(network)
            if not isinstance(module, torch.jit.ScriptModule)
            for holder in (module.__dict__, module._buffers)
        ]
        self._tables = [
            (table, copy.copy(table))
            for _, module in holding.modules(network)
            if not isinstance(module, torch.jit.ScriptModule)
            for table in map(module.__dict__.get, _TABLES)
            if isinstance(table, _CONTAINERS)
        ]
        # What is compiled has tensors that never become others; and nothing has to be copied twice, or to no end.
        self._beside = [(name, value, _copied(value)) for name, value in _buffers_inside(network)]
        known = {id(value) for value in holding.tensors(network).values()}
        known |= {id(value) for _, _, before in self._held for value, _ in before.values()}
        left = _MOST_BYTES
        for name, value in enclosed.reached(network):
            large = value.nbytes if isinstance(value, enclosed.Array) or _dense(value) else 0
            if id(value) not in known and large <= left:
                self._beside.append((name, value, _copied(value)))
                left -= large
        self._counts: list[int] = []  # after each picture: of tensors in attributes
        self._inside: list[int] = []  # and of those in objects and functions
        self.counting: str | None = None  # the address of a number that each forward changes, as `problem` finds it

    def changed(self) -> str | None:
        """Return the address of something that is no longer what it was; None where all is."""
        for path, holder, before in self._held:
            now = dict(_own(holder))
            for key in [*before, *(key for key in now if key not in before)]:
                if key not in now or key not in before or _differs(*before[key], now[key]):
                    return f"{path}.{key}".strip(".")
        return next((name for name, value, copied in self._beside if _differs(value, copied, value)), None)

    def restore(self) -> None:
        """Put all of it back."""
        for _, holder, before in self._held:
            for key in [key for key, _ in _own(holder) if key not in before]:
                del holder[key]
            for key, (value, copied) in before.items():
                holder[key] = _restored(value, copied)
        for table, copied in self._tables:
            _restored(table, copied)
        for _, value, copied in self._beside:
            _restored(value, copied)

    def note(self) -> None:
        """Count the tensors that are kept after a picture alone."""
        self._counts.append(sum(1 for _ in holding.attributes(self.network)))
        if len(self._inside) < 3:  # of few pictures, as there may be much to look through
            things = (value for _, holder in enclosed.reached(self.network) for _, value in enclosed.items(holder))
            self._inside.append(sum(1 for value in things if isinstance(value, Tensor)))

    def problem(self, off: Callable[[], float], most: float) -> tuple[str, str, str] | None:
        """Return why what is kept cannot be served; None where it can.

        Memory has to be bounded, and the answer to a picture the one that it gets before any other.

        Args:
            off: how far the answer to a picture is from the one that it got; called where all of the past is put back.
            most: how far that may be.

        Returns:
            A check's name, what was found, and the remedy.
        """
        if (kept := self.changed()) is None:
            return None
        if self.grows:
            return (
                "state",
                f"its forward keeps more tensors with each picture (in {kept!r}): memory would run out",
                "empty what it keeps at the beginning of its forward, or remove the hook that fills it",
            )
        then = self._numbers()
        self.restore()
        if (share := off()) <= most:  # it may be no number, either
            now = self._numbers() if then else {}
            self.counting = next((name for name, value in then.items() if now.get(name, value) != value), None)
            return None
        return (
            "repeatable",
            f"its answer to a picture depends on those before it, by {share:.0%} of the largest output (it keeps "
            f"{kept!r})",
            "let its forward keep nothing of one picture for the next; what is set once, set in its factory, or load "
            "it with the weights",
        )

    def _numbers(self) -> dict[str, float]:
        """Return the plain numbers that are kept and no longer what they were, or were not there."""
        held = [(path, _own(own), {key: value for key, (value, _) in then.items()}) for path, own, then in self._held]
        held += [(name, enclosed.items(value), dict(enclosed.items(then))) for name, value, then in self._beside]
        return {
            f"{path}.{key}".strip("."): value
            for path, now, before in held
            for key, value in now
            if type(value) in (int, float) and (key not in before or before[key] != value)
        }

    @property
    def grows(self) -> bool:
        """Whether more was kept with each picture."""
        return any(
            len(counts) > 1 and all(b > a for a, b in pairwise(counts)) for counts in (self._counts, self._inside)
        )


def _buffers_inside(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers of a network's parts that are compiled."""
    met: set[int] = set()
    for path, module in holding.modules(network):
        inner = module.held[0] if isinstance(module, BlackBox) else module
        if isinstance(inner, torch.jit.ScriptModule):
            for name, value in holding.buffers(inner).items():
                if value.data_ptr() not in met:  # each is another object each time that it is asked for
                    met.add(value.data_ptr())
                    yield f"{path}.{name}".strip("."), value


def _own(holder: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [(key, value) for key, value in holder.items() if key not in _EVERY]


def _dense(value: Any) -> bool:
    if not isinstance(value, Tensor):
        return False
    return bool(value.layout == torch.strided and not value.is_quantized and not value.is_meta)


def _copied(value: Any) -> Any:
    """Return what to put back into something; itself, where nothing can be."""
    if _dense(value):
        return value.detach().clone()
    if isinstance(value, enclosed.Array):
        return value.copy()
    if isinstance(value, CellType | enclosed.Global):
        return dict(enclosed.items(value))
    return next((kind(value) for kind in _CONTAINERS if isinstance(value, kind)), value)


def _differs(value: Any, copied: Any, now: Any) -> bool:
    """Whether something is no longer what it was, given it, its copy of then, and what is in its place now."""
    if now is not value:
        return not _same(value, now)
    if copied is value:
        return False
    if isinstance(value, Tensor):
        return copied.shape != now.shape or not torch.equal(copied, now)
    if isinstance(value, enclosed.Array):
        return bool(copied.shape != now.shape or copied.tobytes() != now.tobytes())
    return not _alike(copied, _copied(now))


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) in _PLAIN and type(a) is type(b) and a == b)


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, set):
        return bool(a == b)
    return len(a) == len(b) and all(map(_same, a, b))


def _restored(value: Any, copied: Any) -> Any:
    """Return something with what it held then; itself, where others may hold it, too."""
    if not _differs(value, copied, value):  # others may write to it, and to some nobody may
        return value
    if isinstance(value, Tensor):
        if value.is_inference() or value.shape != copied.shape:
            return copied.clone()
        with torch.no_grad():
            value.copy_(copied)
    elif isinstance(value, enclosed.Array):
        with suppress(ValueError):  # another shape, or nobody may write to it
            value[...] = copied
    elif isinstance(value, CellType | enclosed.Global):
        if copied:
            value.cell_contents = copied[None]
        elif isinstance(value, CellType):
            with suppress(ValueError):  # it is empty
                del value.cell_contents
    else:
        value.clear()
        value.extend(copied) if isinstance(value, list | deque) else value.update(copied)
    return value

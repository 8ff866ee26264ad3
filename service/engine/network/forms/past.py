"""What a network keeps from one forward to the next beside its parameters, and how to put it back."""

import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from service.models.networks import holding
from service.models.networks.forms import BlackBox

_EVERY = frozenset(nn.Module().__dict__)  # attributes that each module has, whatever it is
# Of these, the tables: of hooks, parts and weights, to which a first forward may add, and set a flag that it has.
_TABLES = [key for key, value in nn.Module().__dict__.items() if isinstance(value, dict | set) and key != "_buffers"]
_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)
_PLAIN = (bool, int, float, str)


class Past:
    """A network's buffers, other attributes, hooks and parts, as they are when this is made.

    What lies in objects that are no modules, or deeper than in a list or a dictionary, is not seen.
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
            if type(table) in _CONTAINERS
        ]
        # Of what is compiled, whose tensors never become others.
        self._compiled = [(name, value, _copied(value)) for name, value in _buffers_inside(network)]
        self._counts: list[int] = []
        self.counting: str | None = None  # the address of a number that each forward changes, as `problem` finds it

    def changed(self) -> str | None:
        """Return the address of something that is no longer what it was; None where all is."""
        for path, holder, before in self._held:
            now = dict(_own(holder))
            for key in [*before, *(key for key in now if key not in before)]:
                if key not in now or key not in before or _differs(*before[key], now[key]):
                    return f"{path}.{key}".strip(".")
        return next((name for name, value, copied in self._compiled if _differs(value, copied, value)), None)

    def restore(self) -> None:
        """Put all of it back."""
        for _, holder, before in self._held:
            for key in [key for key, _ in _own(holder) if key not in before]:
                del holder[key]
            for key, (value, copied) in before.items():
                holder[key] = _restored(value, copied)
        for table, copied in self._tables:
            _restored(table, copied)
        for _, value, copied in self._compiled:
            _restored(value, copied)

    def note(self) -> None:
        """Count the tensors that are kept after a picture alone."""
        self._counts.append(sum(1 for _ in holding.attributes(self.network)))

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
        """Return the plain numbers in attributes that are no longer what they were, or were not there."""
        return {
            f"{path}.{key}".strip("."): value
            for path, holder, before in self._held
            for key, value in _own(holder)
            if type(value) in (int, float) and (key not in before or before[key][0] != value)
        }

    @property
    def grows(self) -> bool:
        """Whether more was kept with each picture."""
        return len(self._counts) > 1 and all(b > a for a, b in zip(self._counts, self._counts[1:], strict=False))


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


def _own(holder: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    return [(key, value) for key, value in holder.items() if key not in _EVERY]


def _dense(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_quantized


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone() if _dense(value) else value
    return copy.copy(value) if type(value) in _CONTAINERS else value


def _differs(value: Any, copied: Any, now: Any) -> bool:
    """Whether something is no longer what it was, given it, its copy of then, and what is in its place now."""
    if now is not value:
        return not (type(value) in _PLAIN and type(now) is type(value) and now == value)
    if isinstance(value, Tensor):
        return copied is not value and (copied.shape != now.shape or not torch.equal(copied, now))
    return type(value) in _CONTAINERS and not _alike(copied, now)


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(a[key] is b[key] for key in a)
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _restored(value: Any, copied: Any) -> Any:
    """Return something with what it held then; itself, where others may hold it, too."""
    if isinstance(value, Tensor) and copied is not value:
        if value.is_inference() or value.shape != copied.shape:
            return copied.clone()
        with torch.no_grad():
            value.copy_(copied)
    elif isinstance(value, list):
        value[:] = copied
    elif type(value) in _CONTAINERS:
        value.clear()
        value.extend(copied) if isinstance(value, deque) else value.update(copied)
    return value

"""What a network uses and no module holds: tensors and modules behind functions, and in objects that are no modules.

A function has what encloses it, its defaults, and what it names of its module. Nothing is called here.
"""

import sys
from argparse import Namespace
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from service.models.networks import holding

Array = np.ndarray
_LIBRARIES = frozenset(
    {"torch", "torchvision", "timm", "transformers", "numpy", "PIL", "safetensors", "service", "builtins"}
)
_WRAPPED = (classmethod, staticmethod, partial, property)
_NAMESPACES = (SimpleNamespace, Namespace)
_DEEPEST = 6  # functions, objects and containers behind each other
_MOST = 4096  # of them, in all
_MAKING = frozenset({"__init__", "__new__", "__init_subclass__"})  # what they use has become the network's own


def arrays(network: nn.Module) -> dict[str, Tensor | np.ndarray[Any, Any]]:
    """Return the tensors and arrays that a network uses and no module holds, by where they were found."""
    known = {id(value) for value in (*holding.tensors(network).values(), *holding.kept(network).values())}
    found: dict[str, Tensor | np.ndarray[Any, Any]] = {}
    for name, value in _used(network):
        if isinstance(value, Tensor | np.ndarray) and id(value) not in known:
            known.add(id(value))
            if isinstance(value, Tensor) or not value.dtype.hasobject:
                found[name if name not in found else f"{name} {len(found)}"] = value
    return found


def hidden(network: nn.Module) -> list[str]:
    """Return where modules lie that nothing else finds: in objects that are no modules, and behind functions."""
    known = {id(module) for _, module in holding.modules(network)} | {id(holding.whole(network))}
    found = []
    for name, value in _used(network):
        if isinstance(value, nn.Module) and id(value) not in known:
            known.add(id(value))
            found.append(name)
    return sorted(found)


class Global:
    """A name of somebody's Python module, in the form of a cell."""

    def __init__(self, names: dict[str, Any], name: str) -> None:
        self._names, self._name = names, name

    @property
    def cell_contents(self) -> Any:
        """What has the name."""
        return self._names[self._name]

    @cell_contents.setter
    def cell_contents(self, value: Any) -> None:
        self._names[self._name] = value


def reached(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what a network's forwards may change and no module holds, with its name, what it is in first.

    Containers, attributes of objects (as their dictionary), variables that functions share with what is around them
    (cells) and those of their Python modules (`Global`), and in all of these tensors, arrays and any other object.
    Objects of libraries are not opened, nor those without a `__dict__`. What hooks share with who set them is left out.
    """
    met: dict[int, Any] = {}  # all of them held, so that the id of each stays its own
    for name, value in _roots(network, hooks=False):
        yield from _reached(name, value, met, 0)


def _reached(name: str, value: Any, met: dict[int, Any], depth: int) -> Iterator[tuple[str, Any]]:
    if type(value) in holding.SIMPLE or isinstance(value, nn.Module | type | ModuleType) or id(value) in met:
        return
    if depth > _DEEPEST or len(met) >= _MOST:
        return
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, tuple):
        inside = enumerate(value)
    elif isinstance(value, MethodType):
        inside = (("self", value.__self__), ("function", value.__func__))
    elif isinstance(value, _WRAPPED):
        inside = [(key, item) for key, item in _inside(value) if item != {}]
    else:
        met[id(value)] = value
        if isinstance(value, FunctionType):
            inside = _variables(value)
        else:
            yield name, value
            if isinstance(value, CellType | Global):
                inside = [("", item) for _, item in items(value)]
            elif isinstance(value, dict | list | deque):
                inside = items(value)
            elif isinstance(value, _NAMESPACES) or not _of_a_library(type(value).__module__):
                inside = (("", vars(value)),) if type(getattr(value, "__dict__", None)) is dict else ()
    for key, item in inside:
        yield from _reached(f"{name}.{key}".strip("."), item, met, depth + (key != ""))


def items(holder: Any) -> list[tuple[Any, Any]]:
    """Return what lies in something that `reached` yields, and by what keys; nothing where nothing can be put there."""
    if isinstance(holder, dict):
        return list(holder.items())
    if isinstance(holder, list | deque):
        return list(enumerate(holder))
    if isinstance(holder, CellType | Global):
        with suppress(ValueError, KeyError):  # nothing has been assigned to it
            return [(None, holder.cell_contents)]
    return []


def put(holder: Any, key: Any, value: Any) -> None:
    """Put something into one of those that `items` knows, in the place of what has a key."""
    if isinstance(holder, CellType | Global):
        holder.cell_contents = value
    else:
        holder[key] = value


def _variables(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what a function of people's own may change and use again: its variables' cells, and its defaults."""
    names = function.__globals__
    if not _of_a_library(names.get("__name__")):
        yield from zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        yield from ((f"defaults.{i}", value) for i, value in enumerate(function.__defaults__ or ()))
        yield from (function.__kwdefaults__ or {}).items()
        for name in sorted(_names(function.__code__) & names.keys()):
            value = names[name]
            yield name, value if isinstance(value, FunctionType | type | ModuleType) else Global(names, name)


def _used(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield tensors, arrays and modules behind what the modules of a network are and have, each with its name."""
    met: set[int] = set()
    for name, value in _roots(network):
        yield from _behind(name, value, met, 0)


def _roots(network: nn.Module, *, hooks: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield what the modules of a network have, and what their classes do."""
    classes: set[type] = set()
    for path, module in holding.modules(network):
        if isinstance(module, holding.Sealed | torch.jit.ScriptModule) or holding.is_graph(module):
            continue
        for kind in type(holding.whole(module)).__mro__:
            if kind not in classes and not _of_a_library(kind.__module__):
                classes.add(kind)
                for name, value in list(vars(kind).items()):
                    if name not in _MAKING:
                        yield f"{kind.__name__}.{name}", value
        set_up = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()] if hooks else []
        for name, value in (*holding.own_attributes(module), *((("hooks", set_up),) if set_up else ())):
            yield f"{path}.{name}".strip("."), value


def _behind(name: str, value: Any, met: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the tensors, arrays and modules that a value is, or that are behind it."""
    if isinstance(value, Tensor | np.ndarray | nn.Module):
        yield name, value
    elif isinstance(value, MethodType):
        yield from _behind(name, value.__self__, met, depth + 1)
        yield from _behind(name, value.__func__, met, depth + 1)
    elif not isinstance(value, type | ModuleType) and depth < _DEEPEST and id(value) not in met and len(met) < _MOST:
        inside = [(key, item) for key, item in _inside(value) if type(item) not in holding.SIMPLE]
        if inside:
            met.add(id(value))
        for i, (key, item) in enumerate(inside):
            yield from _behind(f"{name}.{key if isinstance(key, str | int) else i}", item, met, depth + 1)


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what a value holds: a function, something around one, a container, or an object of somebody's own class."""
    if isinstance(value, FunctionType):
        # What wraps a function has that one's `__module__`, and names of its own.
        if not _of_a_library(value.__globals__.get("__name__")):
            yield from _of_function(value)
    elif isinstance(value, _WRAPPED):
        names = ("__func__", "func", "args", "keywords", "fget")
        yield from ((name, getattr(value, name)) for name in names if getattr(value, name, None) is not None)
    elif isinstance(value, dict):
        yield from list(value.items())
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    else:
        yield from list(getattr(value, "__dict__", {}).items())


def _of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # nothing has been assigned to it
            continue
    yield from ((f"defaults.{i}", value) for i, value in enumerate(function.__defaults__ or ()))
    yield from (function.__kwdefaults__ or {}).items()
    for name in sorted(_names(function.__code__)):
        value = function.__globals__.get(name)
        if isinstance(value, Tensor | np.ndarray | nn.Module | FunctionType):
            yield name, value


def _names(code: CodeType) -> set[str]:
    """Return the names that code looks up, and that of functions within."""
    inner = [_names(part) for part in code.co_consts if isinstance(part, CodeType)]
    return set(code.co_names).union(*inner)


def _of_a_library(module: str | None) -> bool:
    top = (module or "builtins").partition(".")[0]
    return top in _LIBRARIES or top in sys.stdlib_module_names

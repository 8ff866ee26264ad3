"""What a network uses and no module holds: tensors and modules behind functions, and in objects that are no modules.

A function has what encloses it, its defaults, and what it names of its module. Nothing is called here.
"""

import sys
from collections.abc import Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from service.models.networks import holding

_LIBRARIES = frozenset(
    {"torch", "torchvision", "timm", "transformers", "numpy", "PIL", "safetensors", "service", "builtins"}
)
_WRAPPED = (classmethod, staticmethod, partial, property)
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


def _used(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield tensors, arrays and modules behind what the modules of a network are and have, each with its name."""
    met: set[int] = set()
    classes: set[type] = set()
    for path, module in holding.modules(network):
        if isinstance(module, holding.Sealed | torch.jit.ScriptModule) or holding.is_graph(module):
            continue
        for kind in type(holding.whole(module)).__mro__:
            if kind not in classes and not _of_a_library(kind.__module__):
                classes.add(kind)
                for name, value in list(vars(kind).items()):
                    if name not in _MAKING:
                        yield from _behind(f"{kind.__name__}.{name}", value, met, 0)
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        for name, value in (*holding.own_attributes(module), *((("hooks", hooks),) if hooks else ())):
            yield from _behind(f"{path}.{name}".strip("."), value, met, 0)


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

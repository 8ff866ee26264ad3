"""Capturing activations without a trace left on a shared model.

Hooks are installed once, when a model is loaded, and write to the tape of the running context: without a tape they
do nothing. What the network's own activation functions make of a layer's output is met by a `TorchFunctionMode`
around one forward, wherever they are called.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from service.engine.network.rules.activations import activation_of
from service.models.networks import holding


class Done(Exception):
    """Ends a forward early: every wanted layer has answered."""


class Tape:
    """What to keep of one forward, and what was kept."""

    def __init__(
        self,
        layers: Collection[str] = (),
        *,
        differentiable: Collection[str] = (),
        repeated: Collection[str] = (),
        stop: bool = False,
        observe: Callable[[str, nn.Module, Tensor], Tensor | None] | None = None,
    ) -> None:
        self.layers = frozenset(layers)
        self.differentiable = frozenset(differentiable)
        self.repeated = frozenset(repeated)  # modules called more than once in a forward
        self.stop = stop and bool(self.layers)
        self.observe = observe
        self.kept: dict[str, Tensor] = {}
        # Addresses of what an activation function makes of an output (`path+relu`), by that output's address.
        self.activated = {layer.rpartition("+")[0]: layer for layer in self.layers if "+" in layer}
        # The same, by the id of the tensor that the network's own function will be given.
        self.awaited: dict[int, tuple[str, Tensor]] = {}
        self.calls: Counter[str] = Counter()

    def record(self, path: str, module: nn.Module, output: Tensor) -> Tensor | None:
        """Keep a module's output where it is wanted; return what the network goes on with, None for the output."""
        self.calls[path] += 1
        if self.observe:
            return self.observe(path, module, output)
        address = f"{path}#{self.calls[path]}" if path in self.repeated else path
        going_on = self.keep(address, output) if address in self.layers else None
        if address in self.activated:
            given = output if going_on is None else going_on
            self.awaited[id(given)] = self.activated[address], given  # held, so that its id stays its own
        return going_on

    def keep_wanted(self, address: str, output: Tensor) -> Tensor:
        """Keep an output where it is wanted; return what the network goes on with."""
        return self.keep(address, output) if address in self.layers else output

    def keep(self, address: str, output: Tensor) -> Tensor:
        """Keep an output; return what the network goes on with."""
        if address in self.differentiable and not output.requires_grad:
            # Before this layer nothing requires a gradient: the graph, and the backward, begin here.
            output = output.detach().requires_grad_()
        self.kept[address] = output
        if self.stop and len(self.kept) == len(self.layers):
            raise Done
        return output.clone()  # a later in-place ReLU would overwrite what we kept


_current: ContextVar[Tape | None] = ContextVar("tape", default=None)


def _hook(path: str, module: nn.Module, _: Any, output: Any) -> Any:
    tape = _current.get()
    if tape is None:
        return None
    if isinstance(output, Tensor):
        return tape.record(path, module, output)
    if type(output) is tuple and output and isinstance(output[0], Tensor):  # features, and an attention beside them
        going_on = tape.record(path, module, output[0])
        return None if going_on is None else (going_on, *output[1:])
    return None


def install(module: nn.Module) -> None:
    """Install the recording hook on every submodule, once and for all; compiled ones have no inside."""
    for path, child in holding.modules(module):
        if path and not isinstance(child, torch.jit.ScriptModule):
            child.register_forward_hook(partial(_hook, path))


def uninstall(module: nn.Module) -> nn.Module:
    """Remove the recording hooks, as from a copy that will never be recorded."""
    for _, child in holding.modules(module):
        for key, hook in list(child._forward_hooks.items()):
            if isinstance(hook, partial) and hook.func is _hook:
                del child._forward_hooks[key]
    return module


@contextmanager
def recording(tape: Tape) -> Iterator[Tape]:
    """Let the hooks write to `tape` within the block, in this context only."""
    token = _current.set(tape)
    try:
        yield tape
    finally:
        _current.reset(token)


class ActivatedCapture(TorchFunctionMode):
    """Lets a tape keep what the network's own activation function makes of a layer's output."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call; keep its result where it is the awaited one."""
        kwargs = kwargs or {}
        met = activation_of(func, args, kwargs) if self.tape.awaited else None
        awaited = self.tape.awaited.pop(id(met[0]), None) if met is not None else None
        result = func(*args, **kwargs)
        return result if awaited is None else self.tape.keep(awaited[0], result)

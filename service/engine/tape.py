"""Capturing activations, and replacing the derivative of rectifiers, without a trace left on a shared model.

Hooks are installed once, when a model is loaded, and write to the tape of the running context: without a tape they
do nothing. A rule for ReLU is a `TorchFunctionMode` around one forward, so that it meets functional calls, modules and
in-place ones alike; nothing is registered on the network.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from service.explainers.base import Rectifier

RELU_SUFFIX = "+relu"


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
        observe: Callable[[str, nn.Module, Tensor], None] | None = None,
    ) -> None:
        self.layers = frozenset(layers)
        self.differentiable = frozenset(differentiable)
        self.repeated = frozenset(repeated)  # modules called more than once in a forward
        self.stop = stop and bool(self.layers)
        self.observe = observe
        self.kept: dict[str, Tensor] = {}
        # Outputs whose rectified form is wanted, by the id of the tensor that the network's own ReLU will be given.
        self.awaited: dict[int, tuple[str, Tensor]] = {}
        self.calls: Counter[str] = Counter()

    def record(self, path: str, module: nn.Module, output: Tensor) -> Tensor | None:
        """Keep a module's output where it is wanted; return what the network goes on with, None for the output."""
        self.calls[path] += 1
        if self.observe:
            self.observe(path, module, output)
            return None
        address = f"{path}#{self.calls[path]}" if path in self.repeated else path
        going_on = self.keep(address, output) if address in self.layers else None
        if address + RELU_SUFFIX in self.layers:
            given = output if going_on is None else going_on
            self.awaited[id(given)] = address + RELU_SUFFIX, given  # held, so that its id stays its own
        return going_on

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
    return tape.record(path, module, output) if tape is not None and isinstance(output, Tensor) else None


def install(module: nn.Module) -> None:
    """Install the recording hook on every submodule, once and for all."""
    for path, child in module.named_modules():
        if path:
            child.register_forward_hook(partial(_hook, path))


def uninstall(module: nn.Module) -> nn.Module:
    """Remove the recording hooks, as from a copy that will never be recorded."""
    for child in module.modules():
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


# Small enough to change a living gradient by little, large enough to survive a chain of closed ReLUs.
_LEAK = 1e-2


class RectifiedCapture(TorchFunctionMode):
    """Lets a tape keep what the network's own functional ReLU makes of a layer's output."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call; keep its result where it is the awaited one."""
        kwargs = kwargs or {}
        met = rectifier_of(func, args, kwargs)
        awaited = self.tape.awaited.pop(id(met[0]), None) if met is not None else None
        result = func(*args, **kwargs)
        return result if awaited is None else self.tape.keep(awaited[0], result)


class _Rectify(torch.autograd.Function):
    """min(max(x, 0), ceiling) forwards; backwards what the rule says."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float | None, rule: Rectifier) -> Tensor:
        ctx.rule = rule
        if rule in ("guided", "leaky"):
            open_ = x > 0
            ctx.save_for_backward(open_ if ceiling is None else open_ & (x < ceiling))
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, *signal: Tensor) -> tuple[Tensor, None, None]:
        (g,) = signal
        if ctx.rule == "leaky":
            g = torch.where(ctx.saved_tensors[0], g, _LEAK * g)
        elif ctx.rule == "guided":
            g = g.clamp(min=0) * ctx.saved_tensors[0]
        elif ctx.rule == "deconvnet":
            g = g.clamp(min=0)
        return g, None, None


_RELU: frozenset[Any] = frozenset({F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})
_CLAMP: frozenset[Any] = frozenset(
    {F.relu6, F.hardtanh, F.hardtanh_, torch.clamp, torch.clamp_, torch.clamp_min, torch.clamp_min_}
    | {Tensor.clamp, Tensor.clamp_, Tensor.clamp_min, Tensor.clamp_min_}
)
_SMOOTH: Mapping[Any, str] = {
    F.silu: "silu",
    torch.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    F.hardswish: "hardswish",
    F.hardsigmoid: "hardsigmoid",
    F.gelu: "gelu",
    F.elu: "elu",
    F.selu: "selu",
    F.celu: "celu",
    F.leaky_relu: "leaky_relu",
    F.prelu: "prelu",
    F.mish: "mish",
    F.softplus: "softplus",
    torch.tanh: "tanh",
    Tensor.tanh: "tanh",
}


def _bounds(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    if func is F.relu6:
        return 0.0, 6.0
    hard = func in (F.hardtanh, F.hardtanh_)
    names = ("min_val", "max_val") if hard else ("min", "max")
    low, high = (-1.0, 1.0) if hard else (None, None)
    low = args[1] if len(args) > 1 else kwargs.get(names[0], low)
    high = args[2] if len(args) > 2 else kwargs.get(names[1], high)
    return low, high


def rectifier_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, float | None] | None:
    """Return the input and ceiling of a ReLU-like call (ReLU, ReLU6, a clamp at zero), or None."""
    if func not in _RELU and func not in _CLAMP:
        return None
    x = args[0] if args else kwargs["input"]
    if func in _RELU:
        return x, None
    low, high = _bounds(func, args, kwargs)
    numbers = isinstance(low, int | float) and (high is None or isinstance(high, int | float))
    return (x, high) if numbers and low == 0 and (high is None or high > 0) else None


def smooth_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, str] | None:
    """Return the input and name of another activation function's call, or None."""
    if func not in _SMOOTH:
        return None
    return (args[0] if args else kwargs["input"]), _SMOOTH[func]


class RectifierRule(TorchFunctionMode):
    """Replaces the derivative of every rectifier called within the block."""

    def __init__(self, rule: Rectifier) -> None:
        super().__init__()
        self.rule: Rectifier = rule

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer a rectifier with the rule, anything else as ever."""
        kwargs = kwargs or {}
        met = rectifier_of(func, args, kwargs)
        if met is None:
            return func(*args, **kwargs)
        x, ceiling = met
        result = _Rectify.apply(x, ceiling, self.rule)
        in_place = kwargs.get("inplace", False) or getattr(func, "__name__", "").endswith("_")
        return x.copy_(result) if in_place else result


class Activations(TorchFunctionMode):
    """Watches a forward at load: which activation functions are called, and on which captured outputs."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.rectifiers = 0
        self.max_pools = 0
        self.smooth: Counter[str] = Counter()
        self.calls: list[tuple[int, str]] = []  # (id of the input, name of the function)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take note of an activation function's call, and make it."""
        kwargs = kwargs or {}
        if met := rectifier_of(func, args, kwargs):
            # Those of gates and of position tables, which see no maps of the pictures, do not count.
            self.rectifiers += met[0].ndim == 4 and len(met[0]) == self.batch and met[0][0, 0].numel() > 1
            self.calls.append((id(met[0]), "relu" if met[1] is None else "relu6" if met[1] == 6 else "clamp"))
        elif other := smooth_of(func, args, kwargs):
            self.smooth[other[1]] += 1
            self.calls.append((id(other[0]), other[1]))
        elif "max_pool2d" in getattr(func, "__name__", ""):
            self.max_pools += 1
        return func(*args, **kwargs)

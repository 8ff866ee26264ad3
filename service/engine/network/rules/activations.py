"""Activation functions as they are called: by modules, as functions, in place. The one list of them."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from service.engine.network.rules.slopes import named, overwrites

_RELU: frozenset[Any] = frozenset({F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})
_CLAMP: frozenset[Any] = frozenset(
    {F.relu6, F.hardtanh, F.hardtanh_, torch.clamp, torch.clamp_, torch.clamp_min, torch.clamp_min_}
    | {Tensor.clamp, Tensor.clamp_, Tensor.clamp_min, Tensor.clamp_min_}
    | {torch.clip, torch.clip_, Tensor.clip, Tensor.clip_}
)
_THRESHOLD: frozenset[Any] = frozenset({F.threshold, torch.threshold, torch.threshold_})
_LARGER: frozenset[Any] = frozenset({torch.maximum, torch.max, torch.fmax, Tensor.maximum, Tensor.max, Tensor.fmax})
_CHOICE: frozenset[Any] = frozenset(
    {torch.where, Tensor.where, torch.masked_fill, Tensor.masked_fill, Tensor.masked_fill_}
)
_SCALED: frozenset[Any] = frozenset(
    {torch.mul, torch.multiply, Tensor.mul, Tensor.mul_, Tensor.multiply, Tensor.multiply_}
    | {Tensor.__rmul__, Tensor.__imul__}
)
_SMOOTH: Mapping[Any, str] = {
    function: name
    for name, functions in {
        "celu": (F.celu, torch.celu, torch.celu_),
        "elu": (F.elu, F.elu_),
        "gelu": (F.gelu,),
        "hardshrink": (F.hardshrink, torch.hardshrink, Tensor.hardshrink),
        "hardsigmoid": (F.hardsigmoid,),
        "hardswish": (F.hardswish,),
        "hardtanh": (F.hardtanh, F.hardtanh_),
        "leaky_relu": (F.leaky_relu, F.leaky_relu_),
        "logsigmoid": (F.logsigmoid,),
        "mish": (F.mish,),
        "prelu": (F.prelu, torch.prelu, Tensor.prelu),
        "rrelu": (F.rrelu, torch.rrelu, torch.rrelu_),
        "selu": (F.selu, torch.selu, torch.selu_),
        "sigmoid": (F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, torch.special.expit),
        "silu": (F.silu,),
        "softplus": (F.softplus,),
        "softshrink": (F.softshrink,),
        "softsign": (F.softsign,),
        "tanh": (F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_),
        "tanhshrink": (F.tanhshrink,),
        "threshold": (F.threshold, torch.threshold, torch.threshold_),
    }.items()
    for function in functions
}


# What features are bent by that is no activation function of its own, such as the larger of a and 0.1 a.
_BENDS = frozenset({"abs", "absolute", "fmax", "fmin", "maximum", "minimum", "where"})
_RECTIFYING = ("relu", "relu6", "clamp")  # the names of rectifiers: without a ceiling, with one of 6, with another


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
    """Return the input and ceiling of a ReLU-like call, or None.

    It may be a ReLU, a ReLU6, a clamp or a threshold at zero, the larger of a number and zero, a choice of either, or
    a number times whether it is above zero.
    """
    if func in _SCALED:
        return _gated(func, *args, *kwargs.values())
    if func in _LARGER:
        return _the_larger(*args[:2], *kwargs.values())
    if func in _CHOICE:
        return _chosen(func, args, kwargs)
    if func not in _RELU and func not in _CLAMP and func not in _THRESHOLD:
        return None
    x = args[0] if args else kwargs["input"]
    if func in _RELU:
        return x, None
    if func in _THRESHOLD:
        bounds = (*args[1:3], *(kwargs[name] for name in ("threshold", "value") if name in kwargs))
        return (x, None) if bounds == (0, 0) else None
    low, high = _bounds(func, args, kwargs)
    numbers = isinstance(low, int | float) and (high is None or isinstance(high, int | float))
    return (x, high) if numbers and low == 0 and (high is None or high > 0) else None


def _the_larger(*given: Any) -> tuple[Tensor, None] | None:
    """Return what a rectifier is given that is written as the larger of two tensors, of which one is zero."""
    if len(given) != 2 or not all(isinstance(one, Tensor) and one.is_floating_point() for one in given):
        return None
    a, b = given
    for x, other in ((a, b), (b, a)):
        alike = other.shape == x.shape or (other.numel() == 1 and other.ndim <= x.ndim)
        if alike and _zero(other):
            return x, None
    return None


def _chosen(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, None] | None:
    """Return what a rectifier is given that is written as a choice: x where it is above zero, and zero elsewhere."""
    if (parts := chosen(func, args, kwargs)) is None:
        return None
    taken, a, b = parts
    for x, other, shown in ((a, b, taken), (b, a, ~taken)):
        fits = isinstance(x, Tensor) and x.is_floating_point() and x.shape == shown.shape and _zero(other)
        if fits and _opens(shown, x):
            return x, None
    return None


def _gated(func: Any, *given: Any) -> tuple[Tensor, None] | None:
    """Return what a rectifier is given that is written as a product of x and where it is above zero."""
    if len(given) != 2 or not all(isinstance(one, Tensor) for one in given) or given[0].shape != given[1].shape:
        return None
    for x, gate in (given, given[::-1])[: 1 if overwrites(func, {}) else 2]:
        # Where gradients are kept, no gate has one.
        if x.is_floating_point() and not gate.requires_grad and _opens(gate, x):
            return x, None
    return None


def _opens(gate: Tensor, x: Tensor) -> bool:
    """Whether a gate is one where x is above zero, or not below, and zero elsewhere; what is open everywhere is none.

    A mask that hides nothing of features that have no negative numbers tells nothing of these.
    """
    met = any(torch.equal(gate, open_.to(gate.dtype)) for open_ in (x > 0, x >= 0))
    return met and not bool(gate.all())


def _zero(other: Any) -> bool:
    """Whether something is a constant zero."""
    if isinstance(other, Tensor):
        return not other.requires_grad and not bool(other.any())
    return isinstance(other, int | float) and other == 0


def chosen(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Any, Any] | None:
    """Return where a call that chooses takes the first of two, that one, and the other; None: it does not choose."""
    filling = func not in (torch.where, Tensor.where)
    names = ("input", "mask", "value") if filling else ("input", "condition", "other")
    order = names if func is not torch.where else ("condition", "input", "other")
    given = dict(zip(order, args, strict=False)) | dict(kwargs)
    if len(given) < 3:
        return None
    x, taken, other = (given[name] for name in names)
    return (~taken, x, other) if filling else (taken, x, other)


def as_called(func: Any, args: tuple[Any, ...]) -> Any:
    """Return `masked_fill_` for an assignment y[mask] = number, which is the same; anything else as it is."""
    if func is not Tensor.__setitem__ or not isinstance(mask := args[1], Tensor):
        return func
    whole = mask.dtype == torch.bool and mask.shape == args[0].shape and isinstance(args[2], int | float)
    return Tensor.masked_fill_ if whole else func


def activation_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, str] | None:
    """Return the input and the name of an activation function's call, or None."""
    if met := rectifier_of(func, args, kwargs):
        x, ceiling = met
        return x, _RECTIFYING[0 if ceiling is None else 1 if ceiling == 6 else 2]
    if func not in _SMOOTH:
        return None
    return (args[0] if args else kwargs["input"]), _SMOOTH[func]


class Activations(TorchFunctionMode):
    """Watches a forward at load: which activation functions are called, and on which captured outputs."""

    def __init__(self, batch: int, grid_of: Callable[[Tensor], Any] | None = None) -> None:
        """Watch.

        Args:
            batch: rows of the forward: what has another number of rows is no map of the pictures.
            grid_of: tells whether maps are a grid over the pictures, where the pictures can tell: rectified queries
                and keys of an attention have four axes, too.
        """
        super().__init__()
        self.batch, self.grid_of = batch, grid_of
        self.rectifiers = 0
        self.max_pools = 0
        self.smooth: Counter[str] = Counter()
        self.calls: list[tuple[int, str]] = []  # (id of the input, name of the function)
        self.pooled: dict[int, Tensor] = {}  # where a pool's result lies; held, so that it stays there

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take note of an activation function's call, and make it."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        called = as_called(func, args)
        if met := activation_of(called, args, kwargs):
            x, activation = met
            if called is func:  # what an assignment makes has no address of its own
                self.calls.append((id(x), activation))
            if activation in _RECTIFYING:
                self.rectifiers += self._rectifies_maps(x)
            else:
                self.smooth[activation] += 1
        elif (bend := named(func)) in _BENDS:
            given = (one for one in (*args, *kwargs.values()) if isinstance(one, Tensor) and one.is_floating_point())
            self.smooth[bend] += any(self._rectifies_maps(one) for one in given)
        elif "max_pool2d" in name:
            self.max_pools += 1
        result = func(*args, **kwargs)
        if self.grid_of is None and "pool" in name and isinstance(result, Tensor):
            self.pooled[result.data_ptr()] = result
        return result

    def _rectifies_maps(self, x: Tensor) -> bool:
        """Whether a rectifier is one of features: those of gates and of position tables see no maps of the pictures."""
        if x.ndim != 4 or len(x) != self.batch or x[0, 0].numel() <= 1:
            return False
        return self.grid_of is None or self.grid_of(x) is not None

"""Activation functions as they are called: by modules, as functions, in place. The one list of them."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_RELU: frozenset[Any] = frozenset({F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})
_CLAMP: frozenset[Any] = frozenset(
    {F.relu6, F.hardtanh, F.hardtanh_, torch.clamp, torch.clamp_, torch.clamp_min, torch.clamp_min_}
    | {Tensor.clamp, Tensor.clamp_, Tensor.clamp_min, Tensor.clamp_min_}
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
        "sigmoid": (F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_),
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


def activation_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, str] | None:
    """Return the input and the name of an activation function's call, or None."""
    if met := rectifier_of(func, args, kwargs):
        x, ceiling = met
        return x, "relu" if ceiling is None else "relu6" if ceiling == 6 else "clamp"
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
        if met := activation_of(func, args, kwargs):
            x, activation = met
            self.calls.append((id(x), activation))
            if rectifier_of(func, args, kwargs) is None:
                self.smooth[activation] += 1
            else:
                self.rectifiers += self._rectifies_maps(x)
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

"""Operators that answer with the network's own value, and whose backward follows another slope."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# All of these by their names as `named` has them.
SCALINGS = frozenset({"mul", "__rmul__", "__imul__", "multiply"})  # products number by number
PRODUCTS = SCALINGS | {
    *("matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "mv", "dot", "inner", "outer", "ger", "tensordot", "einsum"),
    *("kron", "vdot", "linalg_vecdot", "cross", "linalg_cross"),
}
QUOTIENTS = frozenset({"div", "__truediv__", "__itruediv__", "true_divide", "divide"})

CLAMPS = frozenset({"clamp", "clamp_min", "clamp_max", "clip", "threshold"})  # functions that bound single numbers
STEPS = frozenset({"ceil", "fix", "floor", "round", "sgn", "sign", "trunc"})  # whose derivative is zero

_TINY = 1e-6


class _Sloped(torch.autograd.Function):
    """The first forwards, the second backwards, whose own numbers do not count: those of a mask are infinite."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, slope: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *signal: Tensor) -> tuple[None, Tensor]:
        return None, signal[0]


def sloped(value: Tensor, slope: Tensor) -> Tensor:
    """Return a value that is differentiated as something else of its shape is."""
    found: Tensor = _Sloped.apply(value, slope)
    return found


def stabilised(divisor: Tensor, epsilon: float) -> Tensor:
    """Move a divisor away from zero by epsilon, zero itself upwards."""
    return divisor + torch.where(divisor >= 0, epsilon, -epsilon)


def nonzero(x: Tensor) -> Tensor:
    """Return x with something tiny instead of zeros: what a signal is divided by, and multiplied by again."""
    return torch.where(x.abs() < _TINY, _TINY, x)


def proportional(value: Tensor, x: Tensor) -> Tensor:
    """Return f(x) with the slope f(x) / x: all that gets to a function of single numbers passes on to its input."""
    return sloped(value, x * (value / nonzero(x)).detach())


def answered(result: Tensor, x: Tensor, func: Any, kwargs: Mapping[str, Any]) -> Tensor:
    """Return what a call answers with; where it works in place, in the tensor that it was given."""
    return x.copy_(result) if overwrites(func, kwargs) else result


def named(func: Any) -> str:
    """Return a function's name without the mark of those that work in place, and without that of torch.special."""
    name: str = getattr(func, "__name__", "")
    return name if name.startswith("__") else name.removeprefix("special_").rstrip("_")


def overwrites(func: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call works in place."""
    name = getattr(func, "__name__", "")
    own = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
    return own or bool(kwargs.get("inplace", False))


def learns(*tensors: Any) -> bool:
    """Whether all of these are tensors that a gradient is wanted of."""
    return all(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors)


def factors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Tensor], Callable[..., tuple[Any, Any]]]:
    """Return what a gradient is wanted of among a call's arguments, also in a list, and what puts others there."""
    found = [one for arg in (*args, *kwargs.values()) for one in (arg if isinstance(arg, list | tuple) else [arg])]

    def given(*others: Tensor) -> tuple[Any, Any]:
        left = iter(others)

        def put(arg: Any) -> Any:
            if isinstance(arg, list | tuple):
                return type(arg)(put(one) for one in arg)
            return next(left) if learns(arg) else arg

        return tuple(map(put, args)), {key: put(arg) for key, arg in kwargs.items()}

    return [one for one in found if learns(one)], given

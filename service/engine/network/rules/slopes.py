"""Operators that answer with the network's own value, and whose backward follows another slope."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

PRODUCTS = frozenset(
    {"mul", "mul_", "__rmul__", "__imul__", "multiply", "multiply_", "matmul", "__matmul__", "bmm", "mm", "einsum"}
)
QUOTIENTS = frozenset({"div", "div_", "__truediv__", "__itruediv__", "true_divide", "divide"})
IN_PLACE = frozenset({"mul_", "multiply_", "__imul__"})  # of the products: their first factor is overwritten

# Functions of single numbers that bound them.
CLAMPS = frozenset(
    {f"{name}{mark}" for name in ("clamp", "clamp_min", "clamp_max", "clip", "threshold") for mark in ("", "_")}
)

_TINY = 1e-6


def sloped(value: Tensor, slope: Tensor) -> Tensor:
    """Return a value that is differentiated as something else is."""
    return value.detach() + (slope - slope.detach())


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


def overwrites(func: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call works in place."""
    name = getattr(func, "__name__", "")
    own = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
    return own or bool(kwargs.get("inplace", False))


def learns(*tensors: Any) -> bool:
    """Whether all of these are tensors that a gradient is wanted of."""
    return all(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors)


def factors(args: Sequence[Any]) -> tuple[list[Any], list[Tensor]]:
    """Return a product's arguments (also a list of them): what comes before its last two tensors, and these."""
    flat = [one for arg in args for one in (arg if isinstance(arg, list | tuple) else [arg])]
    tensors = [one for one in flat if isinstance(one, Tensor)]
    return flat[:-2], tensors[-2:]

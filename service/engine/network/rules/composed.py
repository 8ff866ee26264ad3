"""Calls that are several operations in one, written out so that each of them can be met by a rule.

A function here answers, up to rounding, what the call of the same arguments does; a mode that knows a rule for its
parts calls it within itself.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import mul
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Parts = Tensor | None | tuple[Tensor | None, ...]
"""What a call answers with, made of its parts; None: it is not made of any, or that item has no slope."""

Written = Mapping[str, Callable[..., Parts]]
"""What makes a call of its parts, by its name without the mark of those that work in place."""


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    a, b = input.chunk(2, dim)
    return a * b.sigmoid()


def _lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    return input + (end - input) * weight


def _addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + tensor1 * tensor2 * value


def _addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + tensor1 / tensor2 * value


def _with_product(input: Tensor, *factors: Tensor, beta: float = 1, alpha: float = 1, **named: Tensor) -> Tensor:
    a, b = (*factors, *named.values())  # of which every such call has names of its own
    return input * beta + torch.matmul(a, b) * alpha


def _bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = (torch.einsum("...i,oij->...oj", input1, weight) * input2.unsqueeze(-2)).sum(-1)
    return y if bias is None else y + bias


def _cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    return (F.normalize(x1, dim=dim, eps=eps) * F.normalize(x2, dim=dim, eps=eps)).sum(dim)


def _prod(input: Tensor, dim: int | None = None, keepdim: bool = False, **more: Any) -> Tensor | None:
    if dim is None or dim % input.ndim == 0 or more:  # over the pictures of a batch, too; in other numbers
        return None
    found = reduce(mul, input.unbind(dim))
    return found.unsqueeze(dim) if keepdim else found


def _softmin(input: Tensor, dim: int | None = None, *_: Any, **more: Any) -> Tensor:
    return F.softmax(-input, dim, dtype=more.get("dtype"))


SEVERAL: Written = {
    "glu": _glu,
    "lerp": _lerp,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "addmm": _with_product,
    "baddbmm": _with_product,
    "bilinear": _bilinear,
    "cosine_similarity": _cosine_similarity,
    "prod": _prod,
    "softmin": _softmin,
}
"""Sums, products and quotients in one, for every rule."""


def _maximum(input: Tensor, other: Tensor) -> Tensor:
    return other + F.relu(input - other)


def _minimum(input: Tensor, other: Tensor) -> Tensor:
    return other - F.relu(other - input)


def _amax(input: Tensor, dim: int | Sequence[int] = (), keepdim: bool = False) -> Tensor | None:
    """Return maxima over some axes, as those of a pool over all of them."""
    axes = sorted(axis % input.ndim for axis in ([dim] if isinstance(dim, int) else dim))
    if not axes or axes[0] == 0:  # over the pictures of a batch, too
        return None
    kept = [axis for axis in range(input.ndim) if axis not in axes]
    lines = input.permute(*kept, *axes).flatten(len(kept))
    found = F.adaptive_max_pool2d(lines.reshape(len(input), -1, 1, lines.shape[-1]), 1).reshape(lines.shape[:-1])
    for axis in axes if keepdim else ():
        found = found.unsqueeze(axis)
    return found


def _amin(input: Tensor, dim: int | Sequence[int] = (), keepdim: bool = False) -> Tensor | None:
    found = _amax(-input, dim, keepdim)
    return None if found is None else -found


def _max(input: Tensor, *args: Any, **kwargs: Any) -> Parts:
    return _largest(_maximum, _amax, input, *args, **kwargs)


def _min(input: Tensor, *args: Any, **kwargs: Any) -> Parts:
    return _largest(_minimum, _amin, input, *args, **kwargs)


def _largest(
    two: Callable[..., Tensor], along: Callable[..., Tensor | None], input: Tensor, *args: Any, **kwargs: Any
) -> Parts:
    """Return what is chosen of two, or along an axis, beside which the call answers where it is."""
    other, *rest = args or (kwargs.pop("other", kwargs.pop("dim", None)),)
    if isinstance(other, Tensor):
        return two(input, other)
    found = None if other is None else along(input, other, *rest, **kwargs)
    return None if found is None else (found, None)


def _aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Parts:
    least, largest = (None if dim is None else along(input, dim, keepdim) for along in (_amin, _amax))
    return None if largest is None else (least, largest)


def _adaptive_max_pool1d(input: Tensor, output_size: int | Sequence[int], return_indices: bool = False) -> Parts:
    (size,) = (output_size,) if isinstance(output_size, int) else output_size
    found = F.adaptive_max_pool2d(input.unsqueeze(-2), (1, size)).squeeze(-2)
    return (found, None) if return_indices else found


def _pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x1 - x2 + eps, p, -1, keepdim)
    return found


def _max_pool1d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Parts:
    """Return maxima of windows of a line (N, C, T), as those of a picture of one row."""
    size, step, border, gap = (
        one if isinstance(one, int) else next(iter(one or ()), None) for one in (kernel_size, stride, padding, dilation)
    )
    windows = (1, size), (1, step or size), (0, border), (1, gap)
    found = F.max_pool2d(input.unsqueeze(-2), *windows, ceil_mode=ceil_mode).squeeze(-2)  # type: ignore[arg-type]
    return (found, None) if return_indices else found


LARGEST: Written = {
    "adaptive_max_pool1d": _adaptive_max_pool1d,
    "amax": _amax,
    "amin": _amin,
    "aminmax": _aminmax,
    "fmax": _maximum,
    "fmin": _minimum,
    "max": _max,
    "max_pool1d": _max_pool1d,
    "maximum": _maximum,
    "min": _min,
    "minimum": _minimum,
    "pairwise_distance": _pairwise_distance,
}
"""Maxima and minima, by rectifiers and by the pools that a rule knows; distances, by the lengths that it knows."""

"""Operators that functions are decomposed into, by these functions again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def _addmm(bias: Tensor, x: Tensor, w: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return F.linear(x, w.t(), bias) if beta == alpha == 1 else torch.addmm(bias, x, w, beta=beta, alpha=alpha)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    name = f"conv{'_transpose' if transposed else ''}{weight.ndim - 2}d"
    convolve: Callable[..., Tensor] = getattr(F, name)
    if transposed:
        return convolve(x, weight, bias, stride, padding, output_padding, groups, dilation)
    return convolve(x, weight, bias, stride, padding, dilation, groups)


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return F.batch_norm(x, mean, var, weight, bias, False, momentum, eps), mean.new_empty(0), var.new_empty(0)


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, None, None]:
    return F.layer_norm(x, list(shape), weight, bias, eps), None, None


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, places: int, groups: int, eps: float
) -> tuple[Tensor, None, None]:
    return F.group_norm(x, groups, weight, bias, eps), None, None


def _softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    return torch.softmax(x, dim)


def _safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.softmax(x, dim, dtype=dtype).masked_fill((x == -torch.inf).all(dim, keepdim=True), 0)


def _elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    if scale == 1:
        return F.elu(x, alpha) if input_scale == 1 else F.celu(x, alpha)
    return F.selu(x)


def _log_softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    return torch.log_softmax(x, dim)


def _max_pool2d(x: Tensor, *window: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        places = F.max_pool2d(x, *window, return_indices=True)[1]
    return torch.max_pool2d(x, *window), places


def _adaptive_max_pool2d(x: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        _, places = F.adaptive_max_pool2d(x, size, return_indices=True)
    return F.adaptive_max_pool2d(x, size), places


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, None]:
    return F.scaled_dot_product_attention(q, k, v, attn_mask, dropout, is_causal, scale=scale), None


def _einsum(equation: str, tensors: Sequence[Tensor], path: Any = None) -> Tensor:
    return torch.einsum(equation, *tensors)


OWN: Mapping[str, Callable[..., Any]] = {
    "addmm": _addmm,
    "convolution": _convolution,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "_softmax": _softmax,
    "_safe_softmax": _safe_softmax,
    "_log_softmax": _log_softmax,
    "elu": _elu,
    "max_pool2d_with_indices": _max_pool2d,
    "adaptive_max_pool2d": _adaptive_max_pool2d,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "einsum": _einsum,
}

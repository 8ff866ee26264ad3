"""Attention, opened: written out so that what happens inside can be met."""

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor


@cache
def opened(function: FunctionType) -> Callable[..., Any]:
    """Return a function of torch that does not hand itself over to modes whole, but each call that it makes inside."""
    own = {**function.__globals__, "has_torch_function": _nothing_to_override}
    own["has_torch_function_unary"] = own["has_torch_function_variadic"] = _nothing_to_override
    found = FunctionType(function.__code__, own, function.__name__, function.__defaults__, function.__closure__)
    found.__kwdefaults__ = function.__kwdefaults__
    return found


def _nothing_to_override(*_: Any) -> bool:
    return False


def written_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    weights: Callable[[Tensor], Tensor] = lambda a: a,
) -> Tensor:
    """Return scaled dot product attention softmax(scale q k^T + mask) v, in evaluation mode: nothing is dropped.

    Args:
        q: queries (..., L, E).
        k: keys (..., S, E).
        v: values (..., S, F).
        attn_mask: what is added, or which keys each query may see.
        dropout_p: not used.
        is_causal: whether each query sees no later key.
        scale: 1 / sqrt(E) by default.
        enable_gqa: whether several heads of queries share one of keys.
        weights: is given the attention probabilities (..., L, S), and returns what goes on.
    """
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    z = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(z.shape[-2:], dtype=torch.bool, device=z.device).tril()
    if attn_mask is not None:
        z = z.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else z + attn_mask
    return weights(z.softmax(-1)) @ v

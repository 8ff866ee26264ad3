"""Rectifiers whose backward follows a rule: deconvnet, guided backpropagation, and the like."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from service.contract import Rule
from service.engine.network.rules.activations import as_called, rectifier_of
from service.engine.network.rules.slopes import answered, overwrites, sloped

# Small enough to change a living gradient by little, large enough to survive a chain of closed ReLUs.
_LEAK = 1e-2
_WINDOW = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
# Max pools by name: what their arguments are called, and what averages over the same windows.
_POOLS: Mapping[str, tuple[tuple[str, ...], Callable[..., Tensor]]] = {
    "max_pool2d": (_WINDOW, F.avg_pool2d),
    "max_pool2d_with_indices": (_WINDOW, F.avg_pool2d),
    "adaptive_max_pool2d": (("input", "output_size", "return_indices"), F.adaptive_avg_pool2d),
    "adaptive_max_pool2d_with_indices": (("input", "output_size", "return_indices"), F.adaptive_avg_pool2d),
}


class _Rectify(torch.autograd.Function):
    """min(max(x, 0), ceiling) forwards; backwards what the rule says. Open is where the result is within its bounds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float | None, rule: str, in_place: bool) -> Tensor:
        ctx.rule, ctx.ceiling = rule, ceiling
        if in_place:
            ctx.mark_dirty(x)
            result = x.clamp_(0, ceiling)
        else:
            result = x.clamp(0, ceiling)
        if rule in ("guided", "leaky"):
            ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, *signal: Tensor) -> tuple[Tensor, None, None, None]:
        (g,) = signal
        if ctx.rule == "leaky":
            (result,) = ctx.saved_tensors
            open_ = result > 0 if ctx.ceiling is None else (result > 0) & (result < ctx.ceiling)
            g = torch.where(open_, g, _LEAK * g)
        elif ctx.rule == "guided":
            (result,) = ctx.saved_tensors
            if ctx.ceiling is None:
                g = torch.ops.aten.threshold_backward(g, result, 0).clamp_(min=0)
            else:
                g = torch.ops.aten.hardtanh_backward(g, result, 0, ctx.ceiling).clamp_(min=0)
        elif ctx.rule == "deconvnet":
            g = g.clamp(min=0)
        return g, None, None, None


def _pooled(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Answer a max pool, whose signal goes to all of a window: which of its values has won is the picture's."""
    found = func(*args, **kwargs)
    names, average = _POOLS[func.__name__]
    given = {
        name: value
        for name, value in (dict(zip(names, args, strict=False)) | dict(kwargs)).items()
        if value is not None
    }
    given.pop("return_indices", None)
    if given.pop("dilation", 1) not in (1, (1, 1), [1, 1]):  # averages have none
        return found
    value, *indices = found if isinstance(found, tuple) else (found,)
    answer = sloped(value, average(**given))
    return (answer, *indices) if indices else answer


class Rectifying(TorchFunctionMode):
    """Lets the backward of all that is called within the block follow a rule."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer a rectifier with the rule, anything else as ever."""
        func, kwargs = as_called(func, args), kwargs or {}
        met = rectifier_of(func, args, kwargs)
        if met is None:
            linear = self.rule.relu == "linear" and getattr(func, "__name__", "") in _POOLS
            return _pooled(func, args, kwargs) if linear else func(*args, **kwargs)
        x, ceiling = met
        # As the operator itself, but for views, of which some must not be written to by a function of ours.
        in_place = overwrites(func, kwargs) and x.requires_grad and not x.is_leaf and not x._is_view()
        result = _Rectify.apply(x, ceiling, self.rule.relu, in_place)
        return result if in_place else answered(result, x, func, kwargs)

"""Rectifiers whose backward follows a rule: deconvnet, guided backpropagation, and the like."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from service.contract import Rule
from service.engine.network.activations import rectifier_of
from service.engine.network.rules.slopes import answered

# Small enough to change a living gradient by little, large enough to survive a chain of closed ReLUs.
_LEAK = 1e-2


class _Rectify(torch.autograd.Function):
    """min(max(x, 0), ceiling) forwards; backwards what the rule says."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float | None, rule: str) -> Tensor:
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


class Rectifying(TorchFunctionMode):
    """Lets the backward of all that is called within the block follow a rule."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer a rectifier with the rule, anything else as ever."""
        kwargs = kwargs or {}
        met = rectifier_of(func, args, kwargs)
        if met is None:
            return func(*args, **kwargs)
        x, ceiling = met
        return answered(_Rectify.apply(x, ceiling, self.rule.relu), x, func, kwargs)

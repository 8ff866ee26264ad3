"""Layer-wise relevance propagation: what every operator of a network does with the relevance that gets to it.

What the backward hands down is not the relevance R of a value a, but R / a: so that all that is linear (averages, sums,
reshaping, enlarging, factors that do not depend on the picture) is right by its own derivative, wherever and however it
is called, and only the rest needs a rule.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from service.contract import Relevance, Share
from service.engine.network.rules.activations import activation_of
from service.engine.network.rules.meeting import NORMS, Meeting
from service.engine.network.rules.shares import Linear, shared
from service.engine.network.rules.slopes import (
    CLAMPS,
    QUOTIENTS,
    STEPS,
    answered,
    learns,
    overwrites,
    proportional,
    sloped,
    stabilised,
)
from service.errors import NotApplicable

_CONVOLUTIONS = frozenset(f"conv{kind}{d}d" for kind in ("", "_transpose") for d in (1, 2, 3))
_ADD = frozenset({"add", "__radd__", "__iadd__"})
# Functions of single numbers beside the activations, and norms that only divide.
_PASSING = frozenset({"pow", "square", "rms_norm", "normalize", "local_response_norm"}) | CLAMPS | STEPS
# What deviations are made of; the last two answer with a mean beside them, which is none.
_CONSTANT = frozenset({"sqrt", "rsqrt", "std", "var", "norm", "linalg_norm", "linalg_vector_norm"})
_WITH_MEANS = frozenset({"std_mean", "var_mean"})
_EPSILON = 1e-6


class Sharing(Meeting):
    """Lets relevance be shared out by rules within the block."""

    def __init__(self, rule: Relevance, x: Tensor) -> None:
        """Share by a rule.

        Args:
            rule: how.
            x: the network's input, which the first layer has to be given where it has a rule of its own.
        """
        super().__init__()
        self.rule, self.x = rule, x
        self.met = 0  # convolutions and linear layers
        # What a batch norm behind a convolution is taken together with, by the id of the convolution's output.
        self.behind: dict[int, tuple[weakref.ref[Tensor], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {}

    def concerns(self, *tensors: Any) -> bool:
        """Whether a gradient is wanted of all of these."""
        return learns(*tensors)

    def product(self, f: Callable[..., Tensor], *factors: Tensor) -> Tensor:
        """Return a product, linear in each factor, of whose relevance each gets an equal part."""
        fixed = [t.detach() for t in factors]
        parts = [f(*fixed[:i], t, *fixed[i + 1 :]) for i, t in enumerate(factors)]
        return sloped(parts[0].detach(), sum(parts[1:], parts[0]) / len(parts))

    def answer(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Answer with the network's own value, and the slope of the rule."""
        x = args[0]
        if name in _CONVOLUTIONS or name == "linear":
            return self._linear(func, name, args, kwargs)
        if func is F.batch_norm:
            return self._batch_norm(func, *args, **kwargs)
        if name in NORMS:
            return NORMS[name](_standardised, func(x.detach(), *args[1:], **kwargs), x, *args[1:], **kwargs)
        if name in _PASSING or activation_of(func, args, kwargs) is not None:
            own = {key: value for key, value in kwargs.items() if key != "inplace"}
            value = func(x.detach().clone(), *args[1:], **own)
            return answered(proportional(value, x), x, func, kwargs)
        if name in _ADD and self.rule.positive and len(args) == 2 and learns(args[1]) and not kwargs:
            kept = x.clone() if overwrites(func, kwargs) else x  # it is overwritten
            return answered(_among_the_positive(kept, args[1]), x, func, kwargs)
        if name in _CONSTANT:
            return func(*args, **kwargs).detach()
        if name in _WITH_MEANS:
            deviation, mean = func(*args, **kwargs)
            return deviation.detach(), mean
        if name in QUOTIENTS and len(args) == 2 and learns(args[1]):
            return func(x, args[1].detach(), **kwargs)
        return func(*args, **kwargs)

    def _linear(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | dict(kwargs)
        x, w, b = given.pop("input"), given.pop("weight").detach(), given.pop("bias", None)
        rest = args[3:]

        def f(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
            found: Tensor = func(x, w, b, *rest, **given)
            return found

        share = self._share(name, x)
        out = shared(share, f, x, w, b)
        if name in _CONVOLUTIONS:
            channels = int("transpose" in name)  # which axis of the weight is the outputs'
            if w.shape[channels] == out.shape[-w.ndim + 1]:  # it is not of a transposed convolution in groups
                self.behind[id(out)] = weakref.ref(out), _merged(share, f, x, w, b, channels)
        return out

    def _share(self, name: str, x: Tensor) -> Share:
        """Return the rule of the layer that is met."""
        self.met += 1
        if self.met == 1 and self.rule.first is not None:
            if x.shape != self.x.shape or not torch.equal(x, self.x):
                raise NotApplicable(
                    "rules for pixels need a first layer that is given the picture as it is, and this network changes "
                    "it before; use rules without 'box' or 'flat', such as 'epsilon-plus'"
                )
            return self.rule.first
        return self.rule.linear if name == "linear" else self.rule.convolution

    def _batch_norm(
        self,
        func: Any,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Share through a batch norm: with the convolution in front of it as one, or alone."""
        z: Tensor = func(x, running_mean, running_var, weight, bias, training, momentum, eps)
        if training or running_mean is None or running_var is None:
            return z
        scale = (1 if weight is None else weight) / torch.sqrt(running_var + eps)
        offset = (0 if bias is None else bias) - running_mean * scale
        met = self.behind.pop(id(x), None)
        if met is not None and met[0]() is x:
            return met[1](scale, offset, z)
        view = (1, -1, *[1] * (x.ndim - 2))
        return shared(self.rule.linear, _scaled, x, scale.view(view), offset.view(view), z)


def _merged(
    share: Share, f: Linear, x: Tensor, w: Tensor, b: Tensor | None, channels: int
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return what makes one operator of a convolution and the batch norm behind it, given scale, offset and value."""

    def merged(scale: Tensor, offset: Tensor, z: Tensor) -> Tensor:
        view = [1] * w.ndim
        view[channels] = -1
        return shared(share, f, x, w * scale.view(view), offset if b is None else b * scale + offset, z)

    return merged


def _scaled(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return x * w if b is None else x * w + b


def _among_the_positive(a: Tensor, b: Tensor) -> Tensor:
    """Return a sum that shares only among its positive terms."""
    plus, value = a.clamp(min=0) + b.clamp(min=0), (a + b).detach()
    return sloped(value, plus * (value / stabilised(plus.detach(), _EPSILON)))


def _standardised(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """Return x less its mean over a deviation that is a constant: what is left is linear."""
    deviation = torch.rsqrt(x.detach().var(axes, False, keepdim=True) + eps)
    return (x - x.mean(axes, keepdim=True)) * deviation

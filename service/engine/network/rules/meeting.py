"""What modes that change slopes have in common: which calls they meet, and how norms are taken apart."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from service.engine.network.rules.composed import SEVERAL, Parts, Written
from service.engine.network.rules.opening import opened, written_out
from service.engine.network.rules.slopes import PRODUCTS, answered, factors, named, overwrites, sloped

Standardised = Callable[[Tensor, tuple[int, ...], float], Tensor]
"""f(x, axes, eps): x less its mean over some axes, over its deviation; with the slope of a rule."""


class Meeting(TorchFunctionMode, ABC):
    """Meets every call of a forward through which a gradient may pass; what is several operations, in its parts."""

    written: ClassVar[Written] = SEVERAL

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer with the network's own value, and the slope of the rule."""
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        name = named(func)
        if name in ("multi_head_attention_forward", "scaled_dot_product_attention"):
            with self:  # what happens inside is met, too
                return (opened(func) if name.startswith("multi") else written_out)(*args, **kwargs)
        if func is torch.instance_norm:
            with self:
                return _functional(*args, **kwargs)
        if (written := self.written.get(name)) is not None:
            return self._in_parts(written, func, args, kwargs)
        if name in PRODUCTS:
            return self._product(func, args, kwargs)
        if not args and "input" in kwargs:
            args, kwargs = (kwargs["input"],), {key: value for key, value in kwargs.items() if key != "input"}
        if len(args) == 1 and "other" in kwargs:
            args, kwargs = (*args, kwargs["other"]), {key: value for key, value in kwargs.items() if key != "other"}
        met = args and self.concerns(args[0])
        return self.answer(func, name, args, kwargs) if met else func(*args, **kwargs)

    @abstractmethod
    def concerns(self, *tensors: Any) -> bool:
        """Whether all of these are tensors that the rule is about."""

    @abstractmethod
    def answer(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Answer a call whose first argument is a tensor that the rule is about."""

    @abstractmethod
    def product(self, f: Callable[..., Tensor], *factors: Tensor) -> Tensor:
        """Return a product f(a, b, ...) of several that all depend on the picture."""

    def scaled(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Answer a product of which a gradient is wanted of one factor alone."""
        return func(*args, **kwargs)

    def _in_parts(
        self, written: Callable[..., Parts], func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Answer a call that is several operations in one."""
        if not any(self.concerns(one) for one in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        x, rest = (args[0], args[1:]) if args else (kwargs["input"], ())
        more = {key: value for key, value in kwargs.items() if args or key != "input"}
        over = overwrites(func, kwargs)
        with self:
            slopes = written(x.clone() if over else x, *rest, **more)
        if slopes is None:
            return func(*args, **kwargs)
        with torch.no_grad():
            values = func(x.clone() if over else x, *rest, **more)
        if isinstance(slopes, Tensor):
            return answered(sloped(values, slopes), x, func, kwargs)
        pairs = zip(values, slopes, strict=True)
        return type(values)(value if slope is None else sloped(value, slope) for value, slope in pairs)

    def _product(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        found, given = factors(args, kwargs)
        if not found or not self.concerns(*found):
            return func(*args, **kwargs)
        if len(found) == 1:
            return self.scaled(func, args, kwargs)
        over = overwrites(func, kwargs)

        def f(*factors: Tensor) -> Tensor:
            args, kwargs = given(*factors)
            answer: Tensor = torch.mul(*args, **kwargs) if over else func(*args, **kwargs)
            return answer

        value = self.product(f, *(t.clone() if over and t is args[0] else t for t in found))
        return args[0].copy_(value) if over else value


def _layer_norm(
    standardised: Standardised,
    value: Tensor,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    slope = standardised(x, tuple(range(-len(normalized_shape), 0)), eps)
    return sloped(value, slope if weight is None else slope * weight)


def _group_norm(
    standardised: Standardised,
    value: Tensor,
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    slope = standardised(x.reshape(len(x), num_groups, -1), (2,), eps).view_as(x)
    return sloped(value, slope if weight is None else slope * weight.view(-1, *[1] * (x.ndim - 2)))


def _functional(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """Return an instance norm by the function whose arguments are those of `nn.InstanceNorm2d`."""
    return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def _instance_norm(
    standardised: Standardised,
    value: Tensor,
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if use_input_stats:
        slope = standardised(x, tuple(range(2, x.ndim)), eps)
    else:  # each channel less a constant, over a constant
        assert running_var is not None
        slope = x * (running_var + eps).rsqrt().view(-1, *[1] * (x.ndim - 2))
    return sloped(value, slope if weight is None else slope * weight.view(-1, *[1] * (x.ndim - 2)))


NORMS: Mapping[str, Callable[..., Tensor]] = {
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
}
"""How a norm's value gets another slope: by what standardises, the value, and the call's own arguments."""

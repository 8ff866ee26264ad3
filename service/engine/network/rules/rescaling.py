"""DeepLIFT's rescale rule: what a difference to a reference becomes, instead of what a derivative does.

The first half of a batch are pictures, the second half their references, in the same order. Every operator answers
with its own value; its slope at a picture is such that, for f(x) and f(x'), slope times (x - x') is f(x) - f(x').
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from service.engine.network.rules.activations import activation_of, as_called, chosen
from service.engine.network.rules.composed import LARGEST, SEVERAL, Written
from service.engine.network.rules.meeting import NORMS, Meeting
from service.engine.network.rules.opening import opened
from service.engine.network.rules.slopes import (
    CLAMPS,
    QUOTIENTS,
    SCALINGS,
    STEPS,
    answered,
    learns,
    named,
    overwrites,
    sloped,
)

# Functions of single numbers beside the activations.
_SINGLE = (
    CLAMPS
    | STEPS
    | {
        *("abs", "absolute", "acos", "acosh", "arctan", "asin", "asinh", "atan", "atanh", "cos", "cosh", "erf", "erfc"),
        *("exp", "exp2", "expm1", "float_power", "log", "log10", "log1p", "log2", "logit", "pow", "reciprocal"),
        *("rsqrt", "sin", "sinc", "sinh", "sqrt", "square", "tan", "__rdiv__", "__rtruediv__", "__rpow__"),
    }
)
_POOLS: Mapping[str, Callable[..., Any]] = {
    "max_pool2d": F.max_pool2d,
    "adaptive_max_pool2d": F.adaptive_max_pool2d,
}
_DIVIDING: frozenset[Any] = frozenset({F.normalize, F.local_response_norm})  # by what they are made of
_CHOICES = frozenset({"where", "masked_fill"})
_DEVIATIONS = frozenset({"std", "std_mean", "var", "var_mean"})
_LENGTHS = frozenset({"norm", "linalg_norm", "linalg_vector_norm"})
_FAINTEST = -200.0  # of an exponent: what a mask hides has one of minus infinity, which has no slope
_LEAST = 1e-7  # of the largest input: a smaller difference has the derivative for its slope
_SHORTEST = 1e-24  # of a squared length: the slope of a root at zero is infinite


class Rescaling(Meeting):
    """Lets differences to references be handed down within the block."""

    written: ClassVar[Written] = {**SEVERAL, **LARGEST}

    def __init__(self, rows: int) -> None:
        """Compare pictures with references.

        Args:
            rows: of the batch, both halves.
        """
        super().__init__()
        self.rows = rows

    def concerns(self, *tensors: Any) -> bool:
        """Whether the first half of each is the pictures', and a gradient is wanted of it."""
        return learns(*tensors) and all(x.ndim > 0 and len(x) > 0 and len(x) % self.rows == 0 for x in tensors)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer a choice between two by what it changes; anything else as every rule does."""
        func = as_called(func, args)
        if named(func) in _CHOICES and torch.is_grad_enabled():
            return self._chosen(func, args, kwargs or {})
        return super().__torch_function__(func, types, args, kwargs)

    def product(self, f: Callable[..., Tensor], *factors: Tensor) -> Tensor:
        """Return a product whose change is shared between its factors."""
        return _crossed(f, *factors)

    def scaled(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Answer a product of x and what no gradient is wanted of, which may be another one for each picture: a gate.

        Of x alone, as in x * (x > 0), it is a function of single numbers, and has its quotient, which lies between the
        gate at the picture and that at the reference. Where the quotient does not, the gate is of something else, whose
        own part of the change gets nowhere.
        """
        tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
        if named(func) not in SCALINGS or len(tensors) < 2:
            return func(*args, **kwargs)
        x, gate = sorted(tensors, key=learns, reverse=True)
        if gate.ndim != x.ndim or len(gate) != len(x) or x.is_complex() or gate.is_complex():
            return func(*args, **kwargs)
        value = x.detach() * gate
        (dx, dy), (a, b) = (torch.sub(*_halves(t)) for t in (x.detach(), value)), _halves(gate.to(value.dtype))
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        apart = dx.abs() > _LEAST * x.detach().abs().amax()
        ratio = torch.where(apart, (dy / dx).clamp(low, high), a)
        return answered(sloped(value, x.clone() * torch.cat([ratio, ratio])), args[0], func, kwargs)

    def answer(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Answer with the network's own value, and the slope between picture and reference."""
        x = args[0]
        if name == "softmax":
            return self._softmax(func, x, args[1:], kwargs)
        if name in ("log_softmax", "logsumexp"):
            return self._logarithm(func, name, x, args[1:], kwargs)
        if name in _DEVIATIONS:
            return self._deviation(func, name, x, args[1:], kwargs)
        if name in NORMS:
            return NORMS[name](self._standardised, func(x.detach(), *args[1:], **kwargs), x, *args[1:], **kwargs)
        if func in _DIVIDING:
            with self:  # the quotient inside is met
                return opened(func)(*args, **kwargs)
        if func is F.rms_norm:
            return self._rms_norm(func, *args, **kwargs)
        if name in _LENGTHS:
            return self._length(func, x, args[1:], kwargs)
        if name in _POOLS and not kwargs.get("return_indices", False) and len(args) < 7:
            own = {key: value for key, value in kwargs.items() if key != "return_indices"}
            return self._max_pool(lambda t: _POOLS[name](t, *args[1:], **own, return_indices=True), x)
        if name in QUOTIENTS and len(args) == 2 and self.concerns(args[1]):
            return answered(_over(x.clone(), args[1]), x, func, kwargs)
        if x.is_complex():  # its amount is the length of two numbers
            amount = name in ("abs", "absolute")
            parts = torch.view_as_real(x.resolve_conj())
            return self._length(torch.norm, parts, (), {"dim": -1}) if amount else func(*args, **kwargs)
        if name in _SINGLE or activation_of(func, args, kwargs) is not None:
            rest, own = args[1:], {key: value for key, value in kwargs.items() if key != "inplace"}
            return answered(self._rescaled(lambda t: func(t.clone(), *rest, **own), x), x, func, kwargs)
        return func(*args, **kwargs)

    def _rescaled(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return f(x) of single numbers, with the slope (f(x) - f(x')) / (x - x')."""
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            value = f(leaf)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        value, half = value.detach(), len(x) // 2
        dx, dy = (t[:half] - t[half:] for t in (leaf.detach(), value))
        apart = dx.abs() > _LEAST * leaf.detach().abs().amax()
        slope = slope[:half].masked_fill(~slope[:half].isfinite(), 0)  # as of a root at zero
        ratio = torch.where(apart, dy / torch.where(apart, dx, 1), slope)
        return sloped(value, x * torch.cat([ratio, ratio]))

    def _softmax(self, func: Any, x: Tensor, rest: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """Return exp(x) / sum exp(x), each of whose steps is rescaled."""
        value: Tensor = func(x.detach(), *rest, **kwargs)
        return sloped(value, _over(*self._exponential(x, rest[0] if rest else kwargs["dim"])))

    def _logarithm(self, func: Any, name: str, x: Tensor, rest: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """Return log sum exp(x), or x less that."""
        value: Tensor = func(x.detach(), *rest, **kwargs)
        _, total = self._exponential(x, rest[0] if rest else kwargs["dim"])
        summed = self._rescaled(torch.log, total.clamp(min=torch.finfo(x.dtype).tiny))
        return sloped(value, x - summed if name == "log_softmax" else summed.view_as(value))

    def _exponential(self, x: Tensor, axes: Any) -> tuple[Tensor, Tensor]:
        """Return exp(x), and its sum over some axes; both of a pair are moved alike before, so that none overflows."""
        top = torch.maximum(*_halves(x.detach().amax(axes, keepdim=True)))
        exponential = self._rescaled(torch.exp, (x - torch.cat([top, top])).clamp(min=_FAINTEST))
        return exponential, exponential.sum(axes, keepdim=True)

    def _deviation(self, func: Any, name: str, x: Tensor, rest: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return variances over some axes, or their roots; with the means, where the call answers with these, too."""
        given = dict(zip(("dim", "unbiased", "keepdim"), rest, strict=False)) | dict(kwargs)
        axes, keepdim = given.get("dim"), bool(given.get("keepdim", False))
        found = func(x, *rest, **kwargs)
        if axes is None or isinstance(axes, bool):  # of all numbers of all pictures
            return found
        mean = x.mean(axes, keepdim=True)
        centred = x - mean
        spare = int(given.get("correction", given.get("unbiased", True)))
        variance = _crossed(torch.mul, centred, centred).sum(axes, keepdim=keepdim) / (x.numel() / mean.numel() - spare)
        slope = self._rescaled(torch.sqrt, variance + _SHORTEST) if name.startswith("std") else variance
        if name in ("var", "std"):
            return sloped(found, slope)
        return type(found)((sloped(found[0], slope), found[1]))

    def _chosen(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return what is chosen of two: where a pair chooses differently, all of the change goes to both as they moved.

        So a function of single numbers that is made of two, such as x where x > 0 and 0 elsewhere, has its quotient.
        """
        parts = chosen(func, args, kwargs)
        if parts is None or not any(self.concerns(part) for part in parts):
            return func(*args, **kwargs)
        over = overwrites(func, kwargs)
        with torch.no_grad():
            value = func(args[0].clone(), *args[1:], **kwargs) if over else func(*args, **kwargs)
        taken, a, b = (torch.as_tensor(part, device=value.device).expand_as(value) for part in parts)
        a, b = (t.to(value.dtype).masked_fill(~t.isfinite(), 0) for t in (a, b))  # as of what a mask hides
        both = _mean(taken.to(value.dtype))
        mixed, plain = both * a + (1 - both) * b, torch.where(taken, a, b)
        dy, moved = (torch.sub(*_halves(t.detach())) for t in (plain, mixed))
        ratio = torch.where(moved.abs() > _LEAST * plain.detach().abs().amax(), dy / moved, 1)
        slope = torch.where((both == 0) | (both == 1), plain, torch.cat([ratio, ratio]) * mixed)
        return answered(sloped(value, slope), args[0], func, kwargs)

    def _standardised(self, x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
        """Return x less its mean, over its deviation."""
        centred = x - x.mean(axes, keepdim=True)
        variance = _crossed(torch.mul, centred, centred).mean(axes, keepdim=True)
        return _over(centred, self._rescaled(torch.sqrt, variance + eps))

    def _rms_norm(
        self,
        func: Any,
        x: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        eps: float | None = None,
    ) -> Tensor:
        """Return x over the root of its mean square."""
        value: Tensor = func(x.detach(), normalized_shape, weight, eps)
        mean = _crossed(torch.mul, x, x).mean(tuple(range(-len(normalized_shape), 0)), keepdim=True)
        slope = _over(x, self._rescaled(torch.sqrt, mean + (torch.finfo(x.dtype).eps if eps is None else eps)))
        return sloped(value, slope if weight is None else slope * weight)

    def _length(self, func: Any, x: Tensor, rest: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """Return the root of a sum of squares over some axes, each of whose steps is rescaled; others as they are."""
        given = dict(zip(("ord", "dim", "keepdim"), rest, strict=False)) | dict(kwargs)
        order, axes = given.get("ord", given.get("p")), given.get("dim")
        value: Tensor = func(x, *rest, **kwargs)
        plane = func is torch.linalg.norm and not isinstance(axes, int)  # whose norm of order 2 is another one
        if axes is None or order not in ((None, "fro") if plane else (None, 2, "fro")):
            return value
        squares = _crossed(torch.mul, x, x).sum(axes, keepdim=bool(given.get("keepdim", False)))
        return sloped(value, self._rescaled(torch.sqrt, squares + _SHORTEST))

    def _max_pool(self, pool: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        """Return maxima; the change is shared between both winners by way of the larger of both maxima."""
        value, at = pool(x.detach())
        (a, b), (at_a, at_b) = _halves(value), _halves(at.flatten(-2))
        top = torch.maximum(a, b)
        pictures, references = _halves(x.detach().flatten(-2))
        own = _halves(x)[0].flatten(-2)

        def part(change: Tensor, where: Tensor) -> Tensor:
            dx = (pictures - references).gather(-1, where)
            change = change.flatten(-2)
            return own.gather(-1, where) * torch.where(dx != 0, change / torch.where(dx != 0, dx, 1), 0)

        slope = (part(top - b, at_a) + part(a - top, at_b)).view_as(a)
        return sloped(value, torch.cat([slope, torch.zeros_like(slope)]))


def _crossed(f: Callable[..., Tensor], *factors: Tensor) -> Tensor:
    """Return a product: f(a, b) - f(a', b') is f(a - a', mean of b and b') + f(mean of a and a', b - b').

    Of more than two, all but the last are taken together first.
    """

    def slope(f: Callable[..., Tensor], *factors: Tensor) -> Tensor:
        *some, last = factors
        if len(some) == 1:
            return f(*some, _mean(last)) + f(_mean(*some), last)
        fixed = [t.detach() for t in some]
        mean = _mean(last)
        both = (f(*fixed, last) + f(*(torch.cat(_halves(t)[::-1]) for t in fixed), last)) / 2
        return slope(lambda *some: f(*some, mean), *some) + both

    return sloped(f(*(t.detach() for t in factors)), slope(f, *factors))


def _over(x: Tensor, d: Tensor) -> Tensor:
    """Return a quotient y = x / d: as x = y d, y - y' is (x - x' - mean of y and y' (d - d')) / mean of d and d'.

    By the inverse of d instead it would be a difference of two large numbers where a reference has no contrast.
    """
    y = x.detach() / d.detach()
    return sloped(y, (x - _mean(y) * d) / _mean(d))


def _mean(t: Tensor) -> Tensor:
    """Return the mean of a picture's numbers and its reference's, for both."""
    picture, reference = _halves(t.detach())
    return torch.cat([(picture + reference) / 2] * 2)


def _halves(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is the pictures' of a tensor, and what is their references'."""
    return t[: len(t) // 2], t[len(t) // 2 :]

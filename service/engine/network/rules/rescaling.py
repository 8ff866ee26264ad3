"""DeepLIFT's rescale rule: what a difference to a reference becomes, instead of what a derivative does.

The first half of a batch are pictures, the second half their references, in the same order. Every operator answers
with its own value; its slope at a picture is such that, for f(x) and f(x'), slope times (x - x') is f(x) - f(x').
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from service.engine.network.activations import activation_of
from service.engine.network.rules.meeting import NORMS, Meeting
from service.engine.network.rules.opening import opened
from service.engine.network.rules.slopes import QUOTIENTS, answered, learns, sloped

# Functions of single numbers beside the activations.
_SINGLE = frozenset(
    {"abs", "exp", "log", "pow", "reciprocal", "rsqrt", "sqrt", "square", "__rdiv__", "__rtruediv__", "__rpow__"}
)
_POOLS: Mapping[str, Callable[..., Any]] = {
    "max_pool2d": F.max_pool2d,
    "adaptive_max_pool2d": F.adaptive_max_pool2d,
}
_DIVIDING: frozenset[Any] = frozenset({F.normalize, F.local_response_norm})  # by what they are made of
_LENGTHS = frozenset({"norm", "linalg_norm", "linalg_vector_norm"})
_LEAST = 1e-7  # of the largest input: a smaller difference has the derivative for its slope
_SHORTEST = 1e-24  # of a squared length: the slope of a root at zero is infinite


class Rescaling(Meeting):
    """Lets differences to references be handed down within the block."""

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

    def product(self, f: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
        """Return a product whose change is shared between both factors."""
        return _crossed(f, a, b)

    def answer(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Answer with the network's own value, and the slope between picture and reference."""
        x = args[0]
        if name == "softmax":
            return self._softmax(func, x, args[1:], kwargs)
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
        ratio = torch.where(apart, dy / torch.where(apart, dx, 1), slope[:half])
        return sloped(value, x * torch.cat([ratio, ratio]))

    def _softmax(self, func: Any, x: Tensor, rest: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """Return exp(x) / sum exp(x), each of whose steps is rescaled; both of a pair are moved alike before."""
        value: Tensor = func(x.detach(), *rest, **kwargs)
        axis = rest[0] if rest else kwargs["dim"]
        top = torch.maximum(*_halves(x.detach().amax(axis, keepdim=True)))
        exponential = self._rescaled(torch.exp, x - torch.cat([top, top]))
        return sloped(value, _over(exponential, exponential.sum(axis, keepdim=True)))

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


def _crossed(f: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Return a product: f(a, b) - f(a', b') is f(a - a', mean of b and b') + f(mean of a and a', b - b')."""
    return sloped(f(a.detach(), b.detach()), f(a, _mean(b)) + f(_mean(a), b))


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

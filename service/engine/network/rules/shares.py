"""How linear operators share relevance out among their inputs: `contract.Share`, written as slopes.

An operator answers z = f(x, w) + b. Each rule writes z anew as a sum of parts that are linear in x; the derivative of
these parts is the rule: with R = s z the relevance of z and s the signal that gets there, x times what gets to x is
the relevance of x.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from service.contract import Share
from service.engine.network.rules.slopes import nonzero, sloped, stabilised

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""f(x, weight, bias): a convolution, or another operator that is linear in x and in the weight."""


def shared(share: Share, f: Linear, x: Tensor, w: Tensor, b: Tensor | None, z: Tensor | None = None) -> Tensor:
    """Return an operator's value with the slope that a rule gives it.

    Args:
        share: the rule.
        f: the operator.
        x: its input, which a gradient is wanted of.
        w: its weight.
        b: its bias.
        z: what it answers, where that is known already.
    """
    if z is None:
        z = f(x, w, b)
    elif share.by in ("epsilon", "gamma"):
        z = sloped(z, f(x, w, None))
    kept = b if share.bias else None
    value, raised, lowered = z.detach(), _part(kept, 1), _part(kept, -1)

    def by(slope: Tensor, weight: float | Tensor = 1.0, divisor: Tensor | None = None) -> Tensor:
        """Return a part as often as makes it z: R / divisor, of which the part's own slope makes shares."""
        divisor = slope if divisor is None else divisor
        return slope * (weight * value / stabilised(divisor.detach(), share.epsilon))

    match share.by:
        case "epsilon":
            slope = by(z if share.bias else f(x, w, None))
        case "alpha-beta":
            slope = by(_signed(f, x, _up(w), _down(w), raised), share.alpha)
            if share.alpha != 1:
                slope = slope + by(_signed(f, x, _down(w), _up(w), lowered), 1 - share.alpha)
        case "gamma":
            plain = z if share.bias else f(x, w, None)
            raising = _signed(f, x, _up(w), _down(w), raised)
            slope = by(plain + share.gamma * raising, (value > 0).to(value))
            slope = slope + by(plain + share.gamma * (plain - raising), (value < 0).to(value))
        case "box":
            low, high = (torch.tensor(bound).to(x).view(-1, 1, 1).expand_as(x) for bound in (share.low, share.high))
            unit = x / nonzero(x.detach())  # one, whose derivative shares what is no multiple of x
            divisor = value - f(low, _up(w), raised) - f(high, _down(w), lowered)
            slope = by(f(x, w, None) - f(low * unit, _up(w), None) - f(high * unit, _down(w), None), 1.0, divisor)
        case "flat":
            ones, unit = torch.ones_like(w), x / nonzero(x.detach())
            slope = by(f(unit, ones, None), 1.0, f(torch.ones_like(x), ones, None))
    return sloped(value, slope)


def _up(w: Tensor) -> Tensor:
    return w.clamp(min=0)


def _down(w: Tensor) -> Tensor:
    return w.clamp(max=0)


def _part(b: Tensor | None, sign: int) -> Tensor | None:
    return None if b is None else b.clamp(min=0) if sign > 0 else b.clamp(max=0)


def _signed(f: Linear, x: Tensor, of_plus: Tensor, of_minus: Tensor, b: Tensor | None) -> Tensor:
    """Return f of the positive inputs with one weight, and of the negative ones with another."""
    if not bool((x.detach() < 0).any()):
        return f(x, of_plus, b)
    return f(x.clamp(min=0), of_plus, b) + f(x.clamp(max=0), of_minus, None)

"""Every rule, as a sum over inputs and outputs."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from service.contract import Share
from service.engine.network.rules.shares import shared
from service.engine.network.rules.slopes import nonzero

LOW, HIGH = -2.0, 2.5


def _by_loops(share: Share, x: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
    """R_i = sum_j share_ij R_j, one number after the other."""
    z, found = w @ x + b, torch.zeros_like(x)
    plus = lambda v: max(float(v), 0.0)  # noqa: E731
    minus = lambda v: min(float(v), 0.0)  # noqa: E731
    for j in range(len(z)):
        bias = float(b[j]) if share.bias else 0.0

        def parts(kind: str, j: int = j) -> list[float]:
            """What each input adds to output j."""
            return [
                {
                    "epsilon": float(x[i] * w[j, i]),
                    "up": plus(x[i]) * plus(w[j, i]) + minus(x[i]) * minus(w[j, i]),
                    "down": plus(x[i]) * minus(w[j, i]) + minus(x[i]) * plus(w[j, i]),
                    "box": float(x[i] * w[j, i]) - LOW * plus(w[j, i]) - HIGH * minus(w[j, i]),
                    "flat": 1.0,
                }[kind]
                for i in range(len(x))
            ]

        def share_of(numbers: list[float], own: float, j: int = j) -> Tensor:
            return torch.tensor(numbers) / (sum(numbers) + own) * r[j]

        up, down = parts("up"), parts("down")
        if share.by == "epsilon":
            found += share_of(parts("epsilon"), bias)
        elif share.by == "alpha-beta":
            found += share.alpha * share_of(up, plus(bias)) - (share.alpha - 1) * share_of(down, minus(bias))
        elif share.by == "gamma":
            favoured, g = (up, plus(bias)) if z[j] > 0 else (down, minus(bias)), share.gamma
            plain = parts("epsilon")
            found += share_of([p + g * f for p, f in zip(plain, favoured[0], strict=True)], bias + g * favoured[1])
        elif share.by == "box":
            found += share_of(parts("box"), float(b[j]) - plus(b[j]) - minus(b[j]))
        else:
            found += share_of(parts("flat"), 0.0)
    return found


RULES = {
    "epsilon": Share(),
    "epsilon without bias": Share(bias=False),
    "z-plus": Share("alpha-beta"),
    "z-plus without bias": Share("alpha-beta", bias=False),
    "alpha 2 beta 1": Share("alpha-beta", alpha=2.0),
    "gamma": Share("gamma"),
    "much gamma": Share("gamma", gamma=10.0),
    "box": Share("box", low=(LOW,), high=(HIGH,)),
    "flat": Share("flat"),
}


@pytest.mark.parametrize("known", [False, True], ids=["", "known"])
@pytest.mark.parametrize("positive", [False, True], ids=["signed", "positive"])
@pytest.mark.parametrize("rule", RULES)
def test_equals_its_definition(rule, positive, known):
    share, generator = RULES[rule], torch.Generator().manual_seed(1)
    x = torch.rand(7, generator=generator, dtype=torch.float64) * 4 - (0 if positive else 1.9)
    x[2] = 0
    w, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 7), (4,)))
    r = torch.randn(4, generator=generator, dtype=torch.float64)
    given = x.view(1, 7, 1, 1).clone().requires_grad_()

    def f(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return F.conv2d(x, w.view(4, 7, 1, 1), b)

    if rule == "box":
        share = Share("box", low=(LOW,) * 7, high=(HIGH,) * 7)
    z = f(given, w, b)
    out = shared(share, f, given, w, b, z.detach() if known else None)
    assert torch.equal(out, z)
    (signal,) = torch.autograd.grad((out * (r.view(1, 4, 1, 1) / z).detach()).sum(), given)
    found = (signal * nonzero(given.detach())).view(7)
    torch.testing.assert_close(found, _by_loops(share, x, w, b, r), rtol=1e-4, atol=1e-5)

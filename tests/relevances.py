"""Relevance propagated by hand: from one operator of a traced network to the one before, in double precision.

The definitions of Bach et al. 2015 and Montavon et al. 2019 written as they are, with relevances handed down instead of
signals: an operator z = f(x) gives x * f^T(R / z). Independent of the package under test.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from tests.oracles import Case, Clone, tap_path
from tests.rectifiers import Rectifier, with_module_relus

EPSILON = 1e-6
Share = Callable[[Callable[..., Tensor], Tensor, Tensor, Tensor | None, Tensor], Tensor]
"""(f, x, w, b, R of the outputs) -> R of the inputs, for f(x, w, b)."""


def over(r: Tensor, z: Tensor) -> Tensor:
    """Return R / z, z moved away from zero."""
    return r / (z + EPSILON * torch.where(z >= 0, 1.0, -1.0))


def exactly_over(r: Tensor, z: Tensor) -> Tensor:
    """Return R / z; nothing where z is zero."""
    return torch.where(z == 0, 0, r / z)


def back(f: Callable[[Tensor], Tensor], x: Tensor, signal: Tensor) -> Tensor:
    """Return x times what a linear function's transpose makes of a signal."""
    return x * torch.func.vjp(f, x)[1](signal)[0]


def among(f: Callable[..., Tensor], parts: list[tuple[Tensor, Tensor, Tensor | None]], r: Tensor) -> Tensor:
    """Share R among the inputs of several parts (x, w, b) with one divisor, their sum."""
    s = over(r, sum(f(x, w, b) for x, w, b in parts))  # type: ignore[arg-type]
    return sum(back(lambda t, w=w: f(t, w, None), x, s) for x, w, _ in parts)  # type: ignore[return-value, misc]


def epsilon(f: Any, x: Tensor, w: Tensor, b: Tensor | None, r: Tensor) -> Tensor:
    return among(f, [(x, w, b)], r)


def z_plus(f: Any, x: Tensor, w: Tensor, b: Tensor | None, r: Tensor) -> Tensor:
    up = None if b is None else b.clamp(min=0)
    return among(f, [(x.clamp(min=0), w.clamp(min=0), up), (x.clamp(max=0), w.clamp(max=0), None)], r)


def z_plus_without_bias(f: Any, x: Tensor, w: Tensor, b: Tensor | None, r: Tensor) -> Tensor:
    return z_plus(f, x, w, None, r)


def alpha2_beta1(f: Any, x: Tensor, w: Tensor, b: Tensor | None, r: Tensor) -> Tensor:
    down = None if b is None else b.clamp(max=0)
    lowering = [(x.clamp(min=0), w.clamp(max=0), down), (x.clamp(max=0), w.clamp(min=0), None)]
    return 2 * z_plus(f, x, w, b, r) - among(f, lowering, r)


def gamma(f: Any, x: Tensor, w: Tensor, b: Tensor | None, r: Tensor, strength: float = 0.25) -> Tensor:
    z, total = f(x, w, b), torch.zeros_like(x)
    for sign in (1, -1):  # outputs above zero, and below

        def favoured(t: Tensor, wanted: int) -> Tensor:
            return t + strength * (t.clamp(min=0) if wanted > 0 else t.clamp(max=0))

        bias = None if b is None else favoured(b, sign)
        parts = [(x.clamp(min=0), favoured(w, sign), bias), (x.clamp(max=0), favoured(w, -sign), None)]
        total = total + among(f, parts, r * (z.sign() == sign))
    return total


def flat(f: Any, x: Tensor, w: Tensor, b: Tensor | None, r: Tensor) -> Tensor:
    return among(f, [(torch.ones_like(x), torch.ones_like(w), None)], r)


def box(low: Tensor, high: Tensor) -> Share:
    def share(f: Any, x: Tensor, w: Tensor, b: Tensor | None, r: Tensor) -> Tensor:
        lowest, highest = low.expand_as(x).clone(), high.expand_as(x).clone()
        up, down = (None, None) if b is None else (b.clamp(min=0), b.clamp(max=0))
        z = f(x, w, b) - f(lowest, w.clamp(min=0), up) - f(highest, w.clamp(max=0), down)
        s = over(r, z)
        parts = [(x, w, 1), (lowest, w.clamp(min=0), -1), (highest, w.clamp(max=0), -1)]
        return sum(sign * back(lambda t, w=w: f(t, w, None), t, s) for t, w, sign in parts)  # type: ignore[return-value, misc]

    return share


class _Held(nn.Module):
    """A network inside of another: tracing adds modules, which a sequence would run, too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


class Propagation(fx.Interpreter):
    """A forward that keeps all values, and the way back through them."""

    def __init__(self, network: nn.Module, linear: Share, convolution: Share, first: Share | None, *, positive: bool):
        super().__init__(network, garbage_collect_values=False)
        self.linear, self.convolution, self.first, self.positive = linear, convolution, first, positive

    def run_node(self, n: fx.Node) -> Any:
        """Run a function in place on a copy."""
        kept = dict(self.env)
        self.env.update({k: v.clone() for k, v in kept.items() if isinstance(v, Tensor) and k in n.all_input_nodes})
        result = super().run_node(n)
        self.env.update(kept)
        return result

    def relevance(self, start: Tensor, at: str | None) -> Tensor:
        """Return the relevance of the input, or of what a module answers, given that of the outputs."""
        found: dict[fx.Node, Tensor] = {}
        folded: dict[fx.Node, tuple[Tensor, Tensor]] = {}
        linear = [n for n in self.module.graph.nodes if isinstance(self._module(n), nn.Conv2d | nn.Linear)]
        for n in reversed(self.module.graph.nodes):
            if n.op == "output":
                found[n.args[0]] = start
                continue
            if n not in found:
                continue
            if n.op == "placeholder" or (at is not None and n.target == tap_path(at)):
                return found[n]
            for source, r in self._shared(n, found.pop(n), folded, n is linear[0], at):
                found[source] = found.get(source, 0) + r
        raise AssertionError(f"nothing got to {at}")

    def _module(self, n: fx.Node) -> nn.Module | None:
        return self.module.get_submodule(n.target) if n.op == "call_module" else None

    def _shared(self, n: fx.Node, r: Tensor, folded: Any, first: bool, at: str | None) -> list[tuple[fx.Node, Tensor]]:
        module, (source, *_) = self._module(n), n.all_input_nodes
        x = self.env[source]
        if isinstance(module, Clone | Rectifier | nn.Dropout | nn.Identity | nn.SiLU):
            return [(source, r)]
        if isinstance(module, nn.BatchNorm2d):
            scale = module.weight / torch.sqrt(module.running_var + module.eps)
            offset = module.bias - module.running_mean * scale
            before = source if isinstance(self._module(source), nn.Conv2d) else source.all_input_nodes[0]
            if isinstance(self._module(before), nn.Conv2d) and tap_path(at or "") not in (source.target, before.target):
                folded[before] = scale, offset
                return [(source, r)]

            def scaled(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
                return x * w if b is None else x * w + b

            return [(source, self.linear(scaled, x, scale.view(-1, 1, 1), offset.view(-1, 1, 1), r))]
        if isinstance(module, nn.Conv2d):

            def convolve(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
                given = {"weight": w} | ({} if module.bias is None else {"bias": torch.zeros_like(module.bias)})
                z = torch.func.functional_call(module, given, x)  # however it pads
                return z if b is None else z + b.view(-1, 1, 1)

            w, b = module.weight, module.bias
            if n in folded:
                scale, offset = folded[n]
                w, b = w * scale.view(-1, 1, 1, 1), offset if b is None else offset + b * scale
            share = self.first if first and self.first is not None else self.convolution
            return [(source, share(convolve, x, w, b, r))]
        if isinstance(module, nn.Linear):
            return [(source, self.linear(functional.linear, x, module.weight, module.bias, r))]
        if n.target in (operator.add, torch.add, "add"):
            a, b = (self.env[s] for s in n.args)
            share = over if self.positive else exactly_over
            if self.positive:
                a, b = a.clamp(min=0), b.clamp(min=0)
            return [(n.args[0], a * share(r, a + b)), (n.args[1], b * share(r, a + b))]
        if n.target is torch.cat:
            sources = n.args[0] if isinstance(n.args[0], list | tuple) else n.kwargs["tensors"]
            parts = r.split([self.env[s].shape[1] for s in sources], 1)
            return list(zip(sources, parts, strict=True))
        name = getattr(n.target, "__name__", n.target)
        if isinstance(module, nn.MaxPool2d) or name in ("flatten", "view", "reshape", "squeeze", "contiguous"):
            signal = torch.func.vjp(self._call(n, source), x)[1](r)[0]  # to the winner; into the old shape
            return [(source, signal)]
        if isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d | nn.Flatten) or name in (
            "mean",
            "adaptive_avg_pool2d",
        ):
            return [(source, back(self._call(n, source), x, exactly_over(r, self.env[n])))]
        if name in ("dropout", "relu"):
            return [(source, r)]
        raise NotImplementedError(f"{n.op} {n.target}")

    def _call(self, n: fx.Node, source: fx.Node) -> Callable[[Tensor], Tensor]:
        """Return a node as a function of its only input."""

        def call(x: Tensor) -> Tensor:
            kept, self.env[source] = self.env[source], x
            try:
                return super(Propagation, self).run_node(n)  # type: ignore[no-any-return]
            finally:
                self.env[source] = kept

        return call


def propagated(
    case: Case,
    linear: Share,
    convolution: Share,
    first: Share | None = None,
    *,
    one: bool = False,
    at: str | None = None,
    positive: bool = False,
) -> Tensor:
    """Return relevances (C, H, W) of the input, or of a layer's output, for the case's target.

    Args:
        case: what is asked.
        linear: the rule of linear layers, and of batch norms that no convolution is in front of.
        convolution: of convolutions.
        first: of the first of them.
        one: start with 1 instead of the output.
        at: the layer; None: the input.
        positive: share sums among their positive terms.
    """
    network = with_module_relus(_Held(copy.deepcopy(case.network))).double()
    assert isinstance(network, fx.GraphModule)
    with torch.no_grad():
        walk = Propagation(network, linear, convolution, first, positive=positive)
        outputs = walk.run(case.x.double())
        start = torch.zeros_like(outputs)
        start[0, case.target] = 1 if one else outputs[0, case.target]
        return walk.relevance(start, at and f"network.{at}")[0].float()


def tolerance(case: Case, usual: float) -> float:
    """Return what to allow for single precision.

    What rounding leaves of an activation near zero is passed on through the layers behind it: through the 120 of a
    seeded DenseNet a few thousandths of the largest value, where the same rules in double agree to 2e-6.
    """
    deep = sum(isinstance(module, nn.Conv2d) for module in case.network.modules()) > 100
    return max(usual, 5e-3) if deep else usual

"""Networks rewritten such that every use of a rectifier is a module of its own, as module hooks need it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from tests.oracles import Clone, plain_copy, tap_path


class Rectifier(nn.ReLU):
    """One use of a ReLU (or ReLU6, with ``ceiling=6``), never in place.

    It stays a subclass of ``nn.ReLU`` so that Captum's hooks recognise it. For ReLU6 the rules are:
    *deconvnet* rectifies the signal and ignores both bends of the forward function; *guided* also multiplies
    by 0 < x < 6, which is the function's own derivative. Captum does the same, since it rectifies grad_output
    or grad_input.
    """

    def __init__(self, ceiling: float | None = None) -> None:
        super().__init__(inplace=False)
        self.ceiling = ceiling

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x) if self.ceiling is None else functional.hardtanh(x, 0.0, self.ceiling)


class _TapTracer(fx.Tracer):
    """Symbolic tracer that passes every module's output through a clone at ``taps.at_<path>``.

    A traced graph has no ``layer4`` any more, only the leaves inside; the taps keep such layers reachable. A
    module that is called several times has one tap, which the last call leaves its value in.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Take a convolution whole, whatever it does with its padding."""
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        if not isinstance(output, fx.Proxy):
            return output
        target = tap_path(self.path_of_module(m))
        self.root.get_submodule("taps").add_module(target.removeprefix("taps."), Clone())
        return self.create_proxy("call_module", target, (output,), {})


_RELU_FUNCTIONS = {functional.relu, functional.relu_, torch.relu, torch.relu_}
_RELU_METHODS = {"relu", "relu_"}
_OUT_OF_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


def _ceiling_of(node: fx.Node, model: nn.Module) -> tuple[bool, float | None]:
    """Whether a node rectifies, and at which ceiling."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return isinstance(module, nn.ReLU | nn.ReLU6), 6.0 if isinstance(module, nn.ReLU6) else None
    if node.op == "call_function":
        return (
            node.target in _RELU_FUNCTIONS or node.target is functional.relu6,
            6.0 if node.target is functional.relu6 else None,
        )
    return node.op == "call_method" and node.target in _RELU_METHODS, None


def with_module_relus(model: nn.Module) -> nn.Module:
    """Return an equivalent copy in which every use of a ReLU or ReLU6 is a :class:`Rectifier` module of its own.

    For networks that rectify by function (GoogLeNet, the tail of DenseNet), by ReLU6 (MobileNetV2), in place,
    or with one module used twice (ResNet): module hooks miss or confuse these. The copy is a traced graph;
    the oracles here find its layers by the original paths, composite ones included. Smooth activations (SiLU,
    Hardswish, GELU) are left alone: neither the deconvnet nor the guided rule speaks of them.

    A network that cannot be traced, because its forward looks at sizes, is taken to have modules for all its rectifiers
    and to call each of them once.
    """
    duplicate = plain_copy(model)
    duplicate.add_module("taps", nn.Module())
    try:
        graph = _TapTracer().trace(duplicate)
    except fx.proxy.TraceError:
        return _with_modules_replaced(model)
    duplicate.add_module("rectifiers", nn.Module())
    count = 0
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _OUT_OF_PLACE:
            node.target = _OUT_OF_PLACE[node.target]
            continue
        rectifies, ceiling = _ceiling_of(node, duplicate)
        if not rectifies:
            continue
        target = f"rectifiers.relu_{count}"
        duplicate.get_submodule("rectifiers").add_module(f"relu_{count}", Rectifier(ceiling))
        count += 1
        signal = node.args[0] if node.args else node.kwargs["input"]
        with graph.inserting_after(node):
            replacement = graph.call_module(target, (signal,))
        node.replace_all_uses_with(replacement)
        graph.erase_node(node)
    graph.lint()
    return fx.GraphModule(duplicate, graph).eval()


def _with_modules_replaced(model: nn.Module) -> nn.Module:
    duplicate = plain_copy(model)
    for path, module in list(duplicate.named_modules()):
        if isinstance(module, nn.ReLU | nn.ReLU6):
            parent, _, leaf = path.rpartition(".")
            setattr(duplicate.get_submodule(parent), leaf, Rectifier(6.0 if isinstance(module, nn.ReLU6) else None))
    return duplicate

"""A network resident on a device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from service.contract import Objective, Part, Trace, Tracing
from service.engine.network.capture import install, uninstall
from service.engine.network.examine import examine, probe_input
from service.engine.network.memory import live_bytes
from service.engine.network.trace import trace_parts
from service.engine.network.variants import EXACT, Variant, candidates
from service.models.identity import version
from service.models.spec import ModelSpec
from service.precision import Precision


class Model:
    """A network resident on a device. Everything in here runs on the device thread, or is read only."""

    def __init__(self, spec: ModelSpec, module: nn.Module, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self.version = version(module, spec.identity(module))
        # No parameter ever needs a gradient: what is differentiated are activations and inputs.
        module.eval()  # which does not return the module where its `train` forgets to
        module.requires_grad_(False)
        self.module = module.to(device)
        self.modules = dict(self.module.named_modules())
        install(self.module)
        # What rows are sent through, by precision; others than this one are made when first asked for.
        self.variants: dict[Precision, Variant] = {"fp32": Variant("plain", self.module)}
        self.traced: Variant | None = None  # for gradients of the default layer, where a copy agrees
        # For rows that are pictures with a box changed: an `engine.incremental.Incremental`, or None. That package
        # stands on this one, which does not know it.
        self.incremental: Any = None
        self.whole: str | None = "not measured yet"  # why there is none
        self.max_batch_s = 0.25
        self.preferred: Precision = "fp32"  # where a method tolerates less and nobody asked for more
        examined = examine(spec, self.module, device)
        self.facts, self.repeated = examined.facts, examined.repeated
        self.row_bytes = live_bytes(self.module, self.example()[:1])

    def forward(self, rows: Tensor, precision: Precision = "fp32") -> Tensor:
        """Return outputs (N, K) float32 of inputs (N, 3, H, W) float32."""
        with torch.inference_mode():
            if precision not in self.variants:
                self.variants[precision] = candidates(self.module, self.example(), precision)[-1]
            return self.variants[precision](rows)

    def example(self) -> Tensor:
        """Return a seeded input (2, C, H, W) on the device."""
        return probe_input(self.spec.transform.crop, len(self.spec.transform.channels)).to(self.device)

    def trace(self, x: Tensor, tracing: Tracing, objective: Objective | None = None) -> Trace:
        """Run one forward of x (N, 3, H, W) and its backwards."""
        (result,) = self.trace_parts([Part(x, objective)], tracing)
        if isinstance(result, Exception):
            raise result
        return result

    def trace_parts(self, parts: Sequence[Part], tracing: Tracing) -> list[Trace | Exception]:
        """Trace parts of several requests in one forward."""
        return trace_parts(self._tracing(tracing), self._table, self.repeated, parts, tracing)

    def _table(self, output: object) -> Tensor:
        return self.spec.task.table(output, self.spec.name)

    def trace_with(self, variant: Variant) -> bool:
        """Differentiate the default layer's maps in a copy of the network from now on; return whether it agrees.

        Gradients that pass rectifiers are not: near zero the last bit of an activation decides whether one is open.
        """
        layer = self.facts.default_layer
        if variant.module is self.module or layer is None or layer.split("+")[0] in variant.folded:
            return False
        before, self.traced = self.traced, None

        def traced() -> list[Tensor]:
            found = self.trace(self.example(), Tracing((layer,), (layer,)), lambda seen: seen.outputs[:, :4])
            return [found.outputs, found.activations[layer], found.gradients[layer]]

        expected = traced()
        install(variant.module)
        self.traced = variant
        if any(
            float((a - b).abs().max()) > EXACT * float(a.abs().max()) for a, b in zip(expected, traced(), strict=True)
        ):
            uninstall(variant.module)
            self.traced = before
        return self.traced is variant

    def _tracing(self, tracing: Tracing) -> Variant:
        """Return what to trace with: the copy for what it was held against the network in."""
        default = (self.facts.default_layer,)
        if self.traced is not None and tracing.layers == tracing.wrt == default and tracing.rule is None:
            return self.traced
        return Variant("plain", self.module)

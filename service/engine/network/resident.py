"""A network resident on a device."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from service.contract import Check, Facts, Objective, Part, Rescale, Trace, Tracing
from service.engine.network.capture import install, uninstall
from service.engine.network.examine import examine, probe_pictures
from service.engine.network.forms.adapted import compiles
from service.engine.network.forms.failures import answered, checked
from service.engine.network.forms.sizes import Sizes, rows_of, traces_of
from service.engine.network.memory import TraceBytes
from service.engine.network.proofs import devices
from service.engine.network.proofs.checks import ALONE
from service.engine.network.tails.tails import Tails
from service.engine.network.trace import trace_parts
from service.engine.network.variants import EXACT, ROUNDED, Variant, candidates
from service.errors import NotApplicable
from service.models.identity import version
from service.models.networks.forms import served
from service.models.networks.holding import modules
from service.models.spec import ModelSpec
from service.precision import Precision

_PROOF_S = 10.0  # that a request waits at most; it takes its rows whole then
_NO_PAIRS = (
    "{} takes one picture at a time, so that none can be held against another one inside of it; use 'saliency', which "
    "needs no second picture"
)


class Model:
    """A network resident on a device. Everything in here runs on the device thread, or is read only."""

    def __init__(self, spec: ModelSpec, module: nn.Module, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        module, _ = served(module, spec.name)
        self.version = version(module, spec.identity(module))
        self.examined = examine(spec, module, device)
        self.facts, self.module = self.examined.facts, self.examined.module
        if devices.elsewhere(device):
            self.facts = self._proved_here()
        self.modules = dict(modules(self.module))
        # What rows are sent through, by precision; others than this one are made when first asked for.
        self.variants: dict[Precision, Variant] = {"fp32": Variant("plain", self.module)}
        self.traced: Variant | None = None  # for gradients of the default layer, where a copy agrees
        # For rows that are pictures with a box changed: an `engine.incremental.Incremental`, or None. That package
        # stands on this one, which does not know it.
        self.boxes: Any = None
        self.whole: str | None = "not proved yet"  # why there is none
        self.proved = threading.Event()  # whether it is known; cleared by whoever is about to find out
        self.wanted = threading.Event()  # whether a request has waited for it
        self.proved.set()
        self.max_batch_s = 0.25
        self.quicker = 1.0  # times as fast as in PyTorch, that whole rows are in float32
        self.preferred: Precision = "fp32"  # where a method tolerates less and nobody asked for more
        self.sizes = Sizes(1 if self.examined.singly else None, self._tell)
        self._table = self.facts.task.whole if self.examined.addresses.answer is None else None
        self.tails = Tails(
            spec.name, self.module, self.examined.addresses, self.example, self._quiet, self.sizes, self._table
        )
        self.row_bytes = self.examined.row_bytes
        self._traces = TraceBytes(self.row_bytes)

    def _tell(self, line: Check) -> None:
        """Add a line that a batch has shown."""
        self.facts = replace(self.facts, checks=(*self.facts.checks, line))

    def _proved_here(self) -> Facts:
        """Return the facts, with how near the device's answers are to a processor's.

        Raises:
            Refused: they are not near enough.
        """
        facts = self.facts
        if compiles(self.module):
            found = "it is compiled for its device, and not compared with a processor's answers"
            line = Check("device", "warning", found, "compare some of its answers on your own")
        else:
            gradient = facts.no_gradient is None and not self.examined.singly
            line = devices.prove(
                facts.name, self.module, self.example()[:1], facts.task.whole, facts.checks, gradient=gradient
            )
        return replace(facts, checks=(*facts.checks, line))

    @property
    def incremental(self) -> Any:
        """What works off rows of boxes, or None; where that is being proved, the proof is worth waiting for."""
        if not self.proved.is_set():
            self.wanted.set()
            self.proved.wait(_PROOF_S)
        return self.boxes

    @incremental.setter
    def incremental(self, found: Any) -> None:
        self.boxes = found
        self.proved.set()

    def forward(self, rows: Tensor, precision: Precision = "fp32") -> Tensor:
        """Return answers (N, ...) float32 of inputs (N, C, H, W) float32: a readout makes a table (N, K) of them.

        Raises:
            ModelFailed: the network's own code fails on them.
        """
        with self._quiet():
            if self.examined.keeps:
                rows = rows.clone()
            if precision not in self.variants:
                self.variants[precision] = candidates(self.module, self.example(), precision)[-1]
            variant, shape = self.variants[precision], self.examined.addresses.answer

            def run(pieces: Sequence[Tensor]) -> list[Tensor]:
                x = pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
                found = answered(self.spec.name, variant.module, lambda: checked(variant(x), len(x), shape))
                return list(torch.split(found, [len(piece) for piece in pieces]))

            kind = rows_of((precision, variant.name), self._table, ALONE if precision == "fp32" else ROUNDED)
            return self.sizes.run(kind, [rows], run)[0]

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Record nothing for gradients."""
        with ExitStack() as modes:
            modes.enter_context(torch.inference_mode(not self.examined.keeps))
            if self.examined.keeps:  # what it keeps of this forward has to be of use where gradients are recorded
                modes.enter_context(torch.no_grad())
            yield

    def example(self) -> Tensor:
        """Return two seeded pictures (2, C, H, W) on the device."""
        return probe_pictures(self.spec.transform).to(self.device)

    def trace(self, x: Tensor, tracing: Tracing, objective: Objective | None = None) -> Trace:
        """Run one forward of x (N, 3, H, W) and its backwards."""
        (result,) = self.trace_parts([Part(x, objective, readout=self.facts.task.whole)], tracing)
        if isinstance(result, Exception):
            raise result
        return result

    def trace_parts(self, parts: Sequence[Part], tracing: Tracing) -> list[Trace | Exception]:
        """Trace parts of several requests in one forward."""
        network, addresses = self._tracing(tracing), self.examined.addresses

        def traced(parts: Sequence[Part]) -> list[Trace | Exception]:
            return answered(self.spec.name, network.module, lambda: trace_parts(network, addresses, parts, tracing))

        def run(parts: Sequence[Part]) -> list[Trace | Exception]:
            kind = tracing, parts[0].objective is not None
            return self._traces.counted(kind, network.module, sum(len(part.x) for part in parts), lambda: traced(parts))

        if self.sizes.most == 1 and isinstance(tracing.rule, Rescale):
            return [NotApplicable(_NO_PAIRS.format(self.facts.name)) for _ in parts]
        return self.sizes.run(traces_of(tracing), parts, run)

    def trace_bytes(self, tracing: Tracing, differentiated: bool) -> int | None:
        """Return the bytes of the tensors alive for each row of a trace; None before the first one of its kind."""
        return self._traces.of((tracing, differentiated))

    def trace_with(self, variant: Variant) -> bool:
        """Differentiate the default layer's maps in a copy of the network from now on; return whether it agrees.

        Gradients that pass rectifiers are not: near zero the last bit of an activation decides whether one is open.
        """
        layer = self.facts.default_layer
        if variant.module is self.module or layer is None or layer.split("+")[0] in variant.folded:
            return False
        if not self.facts.layers[layer].gradient:
            return False  # there is none to agree about
        before, self.traced = self.traced, None
        example = self.example()[:1]

        def traced() -> list[Tensor]:
            found = self.trace(example, Tracing((layer,), (layer,)), lambda seen: seen.outputs[:, :4])
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
        held = tracing.layers == default and tracing.wrt in ((), default) and tracing.rule is None
        if self.traced is not None and held:
            return self.traced
        return Variant("plain", self.module)

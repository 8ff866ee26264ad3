"""What a method sees of a model: one request's way to its outputs, maps and gradients."""

from collections.abc import Hashable
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from service.contract import (
    INPUT,
    At,
    Boxes,
    Explanation,
    Objective,
    Readout,
    Rows,
    Sketch,
    Total,
    Trace,
    Tracing,
    fingerprint,
)
from service.engine.incremental import Incremental
from service.engine.incremental.work import BoxesWork, plan_of
from service.engine.network.offsets import offset_of
from service.engine.network.resident import Model
from service.engine.scheduler.at import AtWork
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import RowsWork, TraceWork, rows_key
from service.errors import InvalidParameter, ModelOutput
from service.precision import Precision

_TAILS = 4  # times as many rows as whole ones take: what is behind a layer is a part of the network


class ModelProbe:
    """A `Probe` of one model for one request: it sends all work to the device thread.

    `precision` is that of `scores`; `trace` always works in float32. `readout` makes the table of outputs that the
    request asks about; by default what stands for all of an answer.
    """

    def __init__(
        self, model: Model, device: Device, run: Run, precision: Precision = "fp32", readout: Readout | None = None
    ) -> None:
        self.facts = model.facts
        self.device = model.device
        self._model, self._scheduler, self._run, self._precision = model, device, run, precision
        self._readout = readout or model.facts.task.whole

    @property
    def run(self) -> Run:
        """The request."""
        return self._run

    def scores(self, rows: Rows, *, sketch: Sketch | None = None) -> Tensor:
        """See `Probe.scores`."""
        run, key = self._run, self._key(rows)
        precision = "fp32" if isinstance(rows, At) else self._precision
        work = self._boxes(rows) if isinstance(rows, Boxes) else self._at(rows) if isinstance(rows, At) else None
        work = work or RowsWork(
            self._model, self._shape, rows, precision=precision, cache_key=key, readout=self._readout
        )
        run.usage.precision = precision
        run.expected = run.done + rows.count
        if sketch is not None:

            def rough() -> Explanation | None:
                there = work.so_far() if work.next else None
                return sketch(there) if there is not None and bool(torch.isfinite(there).all()) else None

            run.sketch = rough
        try:
            outputs = self._scheduler.submit(work, run)
            if type(work) is RowsWork and precision in self._model.variants:
                run.usage.runtime = self._model.variants[precision].library
        finally:
            if isinstance(work, AtWork) and work.shared is not None:
                self._scheduler.limits.forget(work.key)  # which is one picture's
        self._check(outputs, "outputs")
        return outputs

    def answer(self, x: Tensor) -> Tensor:
        """Return what the network itself answers to one input (1, C, H, W), without the batch dimension."""
        work = RowsWork(self._model, self._shape, Rows.of(x), precision=self._precision)
        self._run.usage.precision = self._precision
        found = self._scheduler.submit(work, self._run)[0]
        self._check(found, "outputs")
        return found

    def _check(self, found: Tensor, what: str) -> None:
        """Raise `ModelOutput` where a number is none."""
        if not bool(torch.isfinite(found).all()):
            remedy = "" if self._precision == "fp32" else f", or precision 'fp32' instead of {self._precision!r}"
            raise ModelOutput(
                f"{what} of {self.facts.name} for this picture, or for a changed copy of it, are infinite or not a "
                f"number; the network computes so itself: try another picture{remedy}"
            )

    def _boxes(self, rows: Boxes) -> RowsWork | None:
        """Return work that computes only what boxes can reach; None where plain rows are expected to be as fast."""
        incremental: Incremental | None = self._model.incremental
        if incremental is None or self._precision != "fp32":
            return None
        plan = plan_of(incremental, rows, self._model.quicker)
        if plan is None:
            return None
        work = BoxesWork(self._model, incremental, plan, rows, cache_key=self._key(rows), readout=self._readout)
        limits, row_s = self._scheduler.limits, sum(incremental.seconds) / plan.gain
        limits.set(work.key, min(plan.rows, limits.fitting(plan.row_bytes), int(self._model.max_batch_s / row_s)))
        self._run.usage.incremental = plan.arithmetic
        return work

    def _at(self, rows: At) -> RowsWork:
        """Return work that runs the network from a layer on."""
        tails, layer = self._model.tails, rows.layer
        way = tails.known(layer) or self._scheduler.call(lambda: tails.way(layer), watched=True)
        # Where something goes around the layer, and is handed on, it is one picture's.
        shared = None if way.alone or not way.replays else fingerprint(rows.image)
        work = AtWork(self._model, tails, rows, shared, cache_key=self._key(rows), readout=self._readout)
        limits = self._scheduler.limits
        rows_at_once = _TAILS * limits.of(rows_key(self._model, self._shape, "fp32"))
        limits.set(work.key, min(rows_at_once, limits.fitting(self._model.row_bytes)))
        return work

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.facts.input_shape

    def _key(self, rows: Rows) -> Hashable:
        """Return what outputs are kept under; None where they are not."""
        if rows.key is None:
            return None
        # Two models of one file never answer for each other, nor does one readout for another.
        return (
            self._run.salt,
            self.facts.name,
            self._model.version,
            self._precision,
            self._readout.key,
            rows.count,
            rows.key,
        )

    def trace(
        self,
        rows: Rows,
        tracing: Tracing,
        objective: Objective | None = None,
        *,
        total: Total | None = None,
    ) -> Trace:
        """See `Probe.trace`."""
        if rows.count > 1 and self._model.trace_bytes(tracing, objective is not None) is None:
            self._scheduler.call(lambda: self._weigh(rows, tracing, objective), watched=True)
        work = TraceWork(self._model, self._shape, rows, tracing, objective, total, self._readout)
        found = self._scheduler.submit(work, self._run)
        self._check(found.outputs, "outputs")
        for name, a in found.activations.items():
            self._check(a, f"what layer {name!r} answers: values")
        for name, g in found.gradients.items():
            self._check(g, "gradients at the input" if name == INPUT else f"gradients at {name!r}")
        for summed in found.totals:
            self._check(summed, "gradients or activations")
        return found

    def _weigh(self, rows: Rows, tracing: Tracing, objective: Objective | None) -> None:
        """Trace a first row, for what it takes: the same request is cut into the same batches the next time.

        What it fails with, it will fail with again as the request's own work.
        """
        work = TraceWork(self._model, self._shape, rows, tracing, objective, readout=self._readout)
        with suppress(Exception):
            work.together([work.build(0, 1)])

    def weight(self, layer: str) -> Tensor:
        """See `Probe.weight`."""
        module = self._module(layer)
        if not isinstance(module, nn.Conv2d):
            raise InvalidParameter.at("/params/layer", f"layer {layer!r} is not a convolution")
        return module.weight.detach()

    def offset(self, layer: str) -> Tensor | None:
        """See `Probe.offset`."""
        module = self._module(layer)
        return offset_of(module) if module is not None else None

    def _module(self, layer: str) -> nn.Module | None:
        """Return the module that answers at an address, `path` or `path#n`; None where a function does."""
        path, _, call = layer.rpartition("#")
        own = layer in self._model.modules or not (path and call.isdecimal())
        return self._model.modules.get(layer if own else path)


class Strongest(ModelProbe):
    """A probe that shows the strongest feature maps of each layer only: those of the largest values.

    `channels` is how many, at most. Which ones they are the first row decides.
    """

    def __init__(
        self,
        model: Model,
        device: Device,
        run: Run,
        precision: Precision = "fp32",
        readout: Readout | None = None,
        *,
        channels: int,
    ) -> None:
        super().__init__(model, device, run, precision, readout)
        self.channels = channels

    def trace(
        self,
        rows: Rows,
        tracing: Tracing,
        objective: Objective | None = None,
        *,
        total: Total | None = None,
    ) -> Trace:
        """See `Probe.trace`."""
        found = super().trace(rows, tracing, objective, total=total)
        fewer = {
            name: a[:, a[0].amax((1, 2)).argsort(descending=True)[: self.channels]]
            for name, a in found.activations.items()
        }
        return replace(found, activations=fewer)

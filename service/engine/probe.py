"""What a method sees of a model: one request's way to its outputs, maps and gradients."""

from collections.abc import Hashable

from torch import Tensor, nn

from service.contract import Boxes, Objective, Rows, Sketch, Total, Trace, Tracing
from service.engine.incremental import Incremental
from service.engine.incremental.work import BoxesWork, plan_of
from service.engine.network.resident import Model
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import RowsWork, TraceWork
from service.errors import InvalidParameter
from service.precision import Precision


class ModelProbe:
    """A `Probe` of one model for one request: it sends all work to the device thread.

    `precision` is that of `scores`; `trace` always works in float32.
    """

    def __init__(self, model: Model, device: Device, run: Run, precision: Precision = "fp32") -> None:
        self.facts = model.facts
        self.device = model.device
        self._model, self._scheduler, self._run, self._precision = model, device, run, precision

    def scores(self, rows: Rows, *, sketch: Sketch | None = None) -> Tensor:
        """See `Probe.scores`."""
        run, precision = self._run, self._precision
        work = self._boxes(rows) if isinstance(rows, Boxes) else None
        work = work or RowsWork(self._model, self._shape, rows, precision=precision, cache_key=self._key(rows))
        run.usage.precision = precision
        run.expected = run.done + rows.count
        if sketch is not None:
            run.sketch = lambda: sketch(work.so_far()) if work.next else None
        return self._scheduler.submit(work, run)

    def _boxes(self, rows: Boxes) -> RowsWork | None:
        """Return work that computes only what boxes can reach; None where plain rows are expected to be as fast."""
        incremental: Incremental | None = self._model.incremental
        plan = plan_of(incremental, rows) if incremental is not None and self._precision == "fp32" else None
        if incremental is None or plan is None:
            return None
        work = BoxesWork(self._model, incremental, plan, rows, cache_key=self._key(rows))
        limits, row_s = self._scheduler.limits, sum(incremental.seconds) / plan.gain
        limits.set(work.key, min(plan.rows, limits.fitting(plan.row_bytes), int(self._model.max_batch_s / row_s)))
        self._run.usage.incremental = plan.arithmetic
        return work

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.facts.input_shape

    def _key(self, rows: Rows) -> Hashable:
        """Return what outputs are kept under; None where they are not."""
        return (self._model.version, self._precision, rows.count, rows.key) if rows.key is not None else None

    def trace(
        self,
        rows: Rows,
        tracing: Tracing,
        objective: Objective | None = None,
        *,
        total: Total | None = None,
    ) -> Trace:
        """See `Probe.trace`."""
        work = TraceWork(self._model, self._shape, rows, tracing, objective, total)
        return self._scheduler.submit(work, self._run)

    def weight(self, layer: str) -> Tensor:
        """See `Probe.weight`."""
        module = self._model.modules.get(layer)
        if not isinstance(module, nn.Conv2d):
            raise InvalidParameter.at("/params/layer", f"layer {layer!r} is not a convolution")
        return module.weight.detach()

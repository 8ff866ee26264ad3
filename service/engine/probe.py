"""What a method sees of a model: one request's way to its outputs, maps and gradients."""

import math
from collections.abc import Hashable

from torch import Tensor, nn

from service.contract import Boxes, Objective, Rows, Sketch, Total, Trace, Tracing
from service.engine.network.resident import Model
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import PatchesJob, RowsJob, TraceJob
from service.errors import InvalidParameter
from service.precision import Precision

INCREMENTAL_PAYS = 1.1  # expected time of plain rows over that of boxes


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
        job = self._boxes(rows) if isinstance(rows, Boxes) else None
        job = job or RowsJob(self._model, self._shape, rows, precision=self._precision, cache_key=self._key(rows))
        self._run.precision = self._precision
        if sketch is not None:
            self._run.sketch = lambda: sketch(job.so_far()) if job.next else None
        return self._scheduler.scores(job, self._run)

    def _boxes(self, rows: Boxes) -> RowsJob | None:
        """Return a job that computes only what boxes can reach; None where plain rows are expected to be as fast."""
        incremental = self._model.incremental
        if incremental is None or self._precision != "fp32" or not rows.boxes:
            return None
        window = max(y1 - y0 for _, y0, _, y1 in rows.boxes), max(x1 - x0 for x0, _, x1, _ in rows.boxes)
        height, width = rows.image.shape[2:]
        corners = [min(y0, height - window[0]) for _, y0, *_ in rows.boxes] + [
            min(x0, width - window[1]) for x0, *_ in rows.boxes
        ]
        plan = incremental.plan(window, math.gcd(*corners) or 1)
        if plan.gain < INCREMENTAL_PAYS:
            return None
        job = PatchesJob(self._model, incremental, plan, rows, cache_key=self._key(rows))
        row_s = sum(incremental.seconds) / plan.gain
        fitting = self._scheduler.fitting(plan.row_bytes)
        self._scheduler.set_limit(job.key, min(plan.rows, fitting, int(self._model.max_batch_s / row_s)))
        self._run.incremental = plan.share
        return job

    @property
    def _shape(self) -> tuple[int, ...]:
        return (3, *self.facts.input_size)

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
        job = TraceJob(self._model, self._shape, rows, tracing, objective, total)
        return self._scheduler.submit(job, self._run)

    def weight(self, layer: str) -> Tensor:
        """See `Probe.weight`."""
        module = self._model.modules.get(layer)
        if not isinstance(module, nn.Conv2d):
            raise InvalidParameter.at("/params/layer", f"layer {layer!r} is not a convolution")
        return module.weight.detach()

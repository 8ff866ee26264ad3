"""What a method sees of a model: one request's way to its outputs, maps and gradients."""

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence

from torch import Tensor, nn

from service.engine.device import Device
from service.engine.jobs import PatchesJob, RowsJob, TraceJob
from service.engine.model import Model
from service.engine.precision import Precision
from service.engine.run import Run
from service.errors import InvalidParameter
from service.explainers.base import Box, Explanation, Objective, Rectifier, Trace

INCREMENTAL_PAYS = 1.1  # expected time of plain rows over that of boxes


class ModelProbe:
    """A `Probe` of one model for one request: it sends all work to the device thread.

    `precision` is that of `scores`; `trace` always works in float32.
    """

    def __init__(self, model: Model, device: Device, run: Run, precision: Precision = "fp32") -> None:
        self.facts = model.facts
        self.device = model.device
        self._model, self._scheduler, self._run, self._precision = model, device, run, precision

    def scores(
        self,
        count: int,
        rows: Callable[[int, int], Tensor],
        *,
        same: Hashable = None,
        image: Tensor | None = None,
        sketch: Callable[[Tensor], Explanation] | None = None,
    ) -> Tensor:
        """See `Probe.scores`."""
        job = RowsJob(
            self._model,
            (3, *self.facts.input_size),
            count,
            rows,
            precision=self._precision,
            cache_key=self._key(image, count, same),
        )
        return self._submit(job, sketch)

    def patched(
        self,
        image: Tensor,
        filling: Tensor,
        boxes: Sequence[Box],
        *,
        same: Hashable = None,
        sketch: Callable[[Tensor], Explanation] | None = None,
    ) -> Tensor:
        """See `Probe.patched`."""
        incremental, plan = self._model.incremental, None
        if incremental is not None and self._precision == "fp32" and boxes:
            window = max(y1 - y0 for y0, _, y1, _ in boxes), max(x1 - x0 for _, x0, _, x1 in boxes)
            height, width = image.shape[2:]
            corners = [min(y0, height - window[0]) for y0, *_ in boxes] + [
                min(x0, width - window[1]) for _, x0, *_ in boxes
            ]
            plan = incremental.plan(window, math.gcd(*corners) or 1)
        if incremental is None or plan is None or plan.gain < INCREMENTAL_PAYS:

            def rows(i: int, j: int) -> Tensor:
                built = image.repeat(j - i, 1, 1, 1)
                for row in range(max(i, 1), j):  # row 0 is the picture itself
                    y0, x0, y1, x1 = boxes[row - 1]
                    built[row - i, :, y0:y1, x0:x1] = filling[:, y0:y1, x0:x1]
                return built

            return self.scores(1 + len(boxes), rows, same=same, image=image, sketch=sketch)
        key = self._key(image, 1 + len(boxes), same)
        job = PatchesJob(self._model, incremental, plan, image, filling, boxes, cache_key=key)
        row_s = sum(incremental.seconds) / plan.gain
        fitting = self._scheduler.fitting(plan.row_bytes)
        self._scheduler.set_limit(job.key, min(plan.rows, fitting, int(self._model.max_batch_s / row_s)))
        self._run.incremental = plan.share
        return self._submit(job, sketch)

    def _key(self, image: Tensor | None, count: int, same: Hashable) -> Hashable:
        """Return what outputs are kept under; None where they are not."""
        if same is None or image is None:
            return None
        picture = hashlib.sha256(image.cpu().numpy().tobytes()).digest()
        return self._model.version, self._precision, picture, count, same

    def _submit(self, job: RowsJob, sketch: Callable[[Tensor], Explanation] | None) -> Tensor:
        self._run.precision = self._precision
        if sketch is not None:
            self._run.sketch = lambda: sketch(job.so_far()) if job.next else None
        return self._scheduler.scores(job, self._run)

    def trace(
        self,
        x: Tensor,
        *,
        layers: Sequence[str] = (),
        wrt: Sequence[str] = (),
        objective: Objective | None = None,
        rectifier: Rectifier | None = None,
        partial: bool = False,
    ) -> Trace:
        """See `Probe.trace`."""
        job = TraceJob(self._model, x, objective, layers=layers, wrt=wrt, rectifier=rectifier, partial=partial)
        return self._scheduler.submit(job, self._run)

    def weight(self, layer: str) -> Tensor:
        """See `Probe.weight`."""
        module = self._model.modules.get(layer)
        if not isinstance(module, nn.Conv2d):
            raise InvalidParameter.at("/params/layer", f"layer {layer!r} is not a convolution")
        return module.weight.detach()

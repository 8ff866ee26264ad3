"""The kinds of work that wait for a device, and how their waiters are answered.

RowsJob   outputs of many inputs, built slice by slice; rows of all jobs with one key share a forward
TraceJob  activations and gradients of a few inputs; jobs with one key share a forward and its backwards
CallJob   anything else, alone
"""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from service.contract import Boxes, Objective, Part, Rows, Total, Trace, Tracing
from service.engine.incremental.planning import Clean, Incremental, Plan
from service.engine.scheduler.run import Run
from service.precision import Precision

T = TypeVar("T")


class Network(Protocol):
    """What the scheduler has to know of a model."""

    def forward(self, rows: Tensor, precision: Precision = "fp32") -> Tensor:
        """Return (N, K) for (N, 3, H, W)."""
        ...

    def trace_parts(self, parts: Sequence[Part], tracing: Tracing) -> list[Trace | Exception]:
        """Trace inputs of several jobs in one pass; see `Probe.trace`."""
        ...


class Ticket(Generic[T]):
    """One request's claim on the result of a job."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._answered = threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = None

    def finish(self, result: T) -> None:
        """Answer the waiter."""
        self._result = result
        self._answered.set()

    def fail(self, error: BaseException) -> None:
        """Answer the waiter with an error."""
        self._error = error
        self._answered.set()

    def wait(self) -> T:
        """Return the result, once there is one, or raise the job's error."""
        self._answered.wait()
        if self._error is not None:
            # A traceback belongs to the thread that raised it; the waiter starts one of its own.
            raise self._error.with_traceback(None)
        return self._result  # type: ignore[return-value]


class Job(Generic[T]):
    """Work that waits for the device, for one request or for several that ask the same."""

    def __init__(self, network: Network | None, key: Hashable) -> None:
        self.network = network
        self.key = key  # jobs with equal keys may share a batch
        self.tickets: list[Ticket[T]] = []
        self.submitted = time.monotonic()

    @property
    def priority(self) -> int:
        """The highest of those who wait for it."""
        return max((ticket.run.priority for ticket in self.tickets), default=0)

    @property
    def rows_left(self) -> int:
        """Rows of a batch that it would take."""
        return 1

    def join(self, run: Run) -> Ticket[T]:
        """Let another request wait for the result."""
        ticket: Ticket[T] = Ticket(run)
        self.tickets.append(ticket)
        return ticket

    def fail(self, error: BaseException) -> None:
        """Answer all waiters with an error."""
        for ticket in self.tickets:
            ticket.fail(error)
        self.tickets = []


class CallJob(Job[T]):
    """One function, run on the device thread."""

    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__(None, None)
        self.call = call


class TraceJob(Job[Trace]):
    """Activations and gradients of some inputs."""

    def __init__(
        self,
        network: Network,
        shape: tuple[int, ...],
        rows: Rows,
        tracing: Tracing,
        objective: Objective | None = None,
        total: Total | None = None,
    ) -> None:
        key = ("trace", id(network), shape, objective is None, tracing)
        super().__init__(network, key)
        self.rows, self.tracing, self.objective, self.total = rows, tracing, objective, total
        self.next = 0
        self.pieces: list[Trace] = []

    @property
    def rows_left(self) -> int:
        """Rows not yet done."""
        return self.rows.count - self.next

    def build(self, i: int, j: int) -> Part:
        """Return rows i to j with what is asked of them; runs on the device thread."""
        return Part(self.rows.build(i, j), self.objective, self.total, i)

    def take(self, piece: Trace, rows: int) -> None:
        """Store the trace of the next rows; totals are added up as they come."""
        self.next += rows
        if self.total is not None and self.pieces:
            self.pieces = [Trace.joined([*self.pieces, piece])]
        else:
            self.pieces.append(piece)


def rows_key(network: Network, shape: tuple[int, ...], precision: Precision) -> Hashable:
    """Return the key of jobs whose rows may share a batch."""
    return "rows", id(network), shape, precision


class RowsJob(Job[Tensor]):
    """The outputs of `count` inputs, built slice by slice."""

    def __init__(
        self,
        network: Network,
        shape: tuple[int, ...],
        rows: Rows,
        *,
        precision: Precision = "fp32",
        cache_key: Hashable = None,
    ) -> None:
        super().__init__(network, rows_key(network, shape, precision))
        self.count, self.rows, self.precision, self.cache_key = rows.count, rows, precision, cache_key
        self.next = 0
        self.outputs: Tensor | None = None

    @property
    def rows_left(self) -> int:
        """Rows not yet done."""
        return self.count - self.next

    def build(self, i: int, j: int) -> Any:
        """Return what `forward` needs for rows i to j; runs on the device thread."""
        return self.rows.build(i, j)

    def forward(self, parts: list[Any]) -> Tensor:
        """Return the outputs of what jobs with this key have built."""
        assert self.network is not None
        return self.network.forward(parts[0] if len(parts) == 1 else torch.cat(parts), self.precision)

    def release(self) -> None:
        """Free what is only needed while rows are left."""

    def take(self, outputs: Tensor) -> None:
        """Store the outputs of the next rows."""
        if self.outputs is None:
            self.outputs = outputs.new_empty((self.count, *outputs.shape[1:]))
        self.outputs[self.next : self.next + len(outputs)] = outputs
        self.next += len(outputs)

    def so_far(self) -> Tensor:
        """Return the outputs of the rows that are done; they do not change any more."""
        return self.outputs[: self.next] if self.outputs is not None else torch.empty(0)


class Patches(NamedTuple):
    """Some rows of a `PatchesJob`."""

    clean: Clean
    whole: bool  # whether the first one is the picture itself
    corners: Tensor  # (N, 2) y, x
    patches: Tensor  # (N, 3, h, w)


class PatchesJob(RowsJob):
    """The outputs of a picture (row 0), and of it with one box each replaced, computed as far as boxes can reach."""

    def __init__(
        self,
        network: Network,
        incremental: Incremental,
        plan: Plan,
        boxes: Boxes,
        *,
        cache_key: Hashable = None,
    ) -> None:
        super().__init__(network, tuple(boxes.image.shape[1:]), boxes, cache_key=cache_key)
        self.key = ("patches", id(network), plan.window, plan.step)
        self.incremental, self.plan = incremental, plan
        self.image, self.filling, self.boxes = boxes.image, boxes.filling, boxes.boxes
        self.clean: Clean | None = None

    def build(self, i: int, j: int) -> Patches:
        """Return the rectangles of rows i to j; the first time, run the picture itself."""
        if self.clean is None:
            self.clean = self.incremental.clean(self.image, self.plan)
        h, w = self.plan.window
        height, width = self.image.shape[2:]
        corners, patches = [], []
        for x0, y0, x1, y1 in self.boxes[max(i, 1) - 1 : j - 1]:
            # All rectangles have one size: at an edge it is moved inside, and shows the picture beside the box.
            y, x = min(y0, height - h), min(x0, width - w)
            patch = self.image[0, :, y : y + h, x : x + w].clone()
            patch[:, y0 - y : y1 - y, x0 - x : x1 - x] = self.filling[:, y0:y1, x0:x1]
            corners.append((y, x))
            patches.append(patch)
        return Patches(
            self.clean,
            i == 0,
            torch.tensor(corners, dtype=torch.long).view(-1, 2),
            torch.stack(patches) if patches else self.image.new_empty(0, 3, h, w),
        )

    def forward(self, parts: list[Patches]) -> Tensor:
        """Return the outputs of what jobs with this key have built."""
        counts = [len(part.patches) for part in parts]
        found = parts[0].clean.outputs[:0]
        if any(counts):
            found = self.incremental.outputs(
                self.plan,
                [part.clean for part in parts],
                torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(counts)),
                torch.cat([part.corners for part in parts]),
                torch.cat([part.patches for part in parts]),
            )
        rows = []
        for part, own in zip(parts, torch.split(found, counts), strict=True):
            rows += [part.clean.outputs, own] if part.whole else [own]
        return torch.cat(rows)

    def release(self) -> None:
        """Free the picture's maps."""
        self.clean = None

"""The one thread that owns a device: it packs rows of every waiting request into full batches.

Requests are plain synchronous code in a pool of threads. They hand `RowsJob`s (forwards of many inputs) and `CallJob`s
(anything else on the device) to the scheduler and wait. A batch is cut when the device is free, never on a timer.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from service.errors import Cancelled, DeadlineExceeded, EngineUnavailable

T = TypeVar("T")


class Run:
    """One request's way through the engine: its deadline, whether it is still wanted, and what it used."""

    def __init__(
        self,
        *,
        timeout_s: float | None = None,
        priority: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.started = time.monotonic()
        self.deadline = self.started + timeout_s if timeout_s is not None else None
        self.timeout_s = timeout_s
        self.priority = priority
        self.progress = progress
        self.cancelled = threading.Event()
        self.forwards = 0
        self.batches = 0
        self.batch_rows = 0
        self.queue_s = 0.0
        self.device_s = 0.0

    def check(self) -> None:
        """Raise where the request should not go on.

        Raises:
            Cancelled: the caller has gone.
            DeadlineExceeded: `timeout_s` has run out.
        """
        if self.cancelled.is_set():
            raise Cancelled("the caller has gone")
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise DeadlineExceeded(
                f"the request took longer than its timeout_s of {self.timeout_s:g} s; raise timeout_s, or ask for less "
                "(a layer with fewer channels, a larger stride, fewer steps)"
            )

    def count(self, rows: int, batch_rows: int, seconds: float) -> None:
        """Record `rows` of this request done within a batch of `batch_rows`."""
        self.forwards += rows
        self.batches += 1
        self.batch_rows += batch_rows
        self.device_s += seconds
        if self.progress:
            self.progress(self.forwards)


class Network(Protocol):
    """What the scheduler has to know of a model."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return (N, K) for (N, 3, H, W)."""
        ...


class Job(Generic[T]):
    """Work that waits for the device."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.submitted = time.monotonic()
        self._done = threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether the job has its result or its error."""
        return self._done.is_set()

    def finish(self, result: T) -> None:
        """Answer the waiter."""
        self._result = result
        self._done.set()

    def fail(self, error: BaseException) -> None:
        """Answer the waiter with an error."""
        self._error = error
        self._done.set()

    def wait(self) -> T:
        """Return the result, once there is one, or raise the job's error."""
        self._done.wait()
        if self._error is not None:
            # A traceback belongs to the thread that raised it; the waiter starts one of its own.
            raise self._error.with_traceback(None)
        return self._result  # type: ignore[return-value]


class CallJob(Job[T]):
    """One function, run on the device thread."""

    def __init__(self, run: Run, call: Callable[[], T], rows: int = 0) -> None:
        super().__init__(run)
        self.call = call
        self.rows = rows


class RowsJob(Job[Tensor]):
    """The outputs of `count` inputs, built slice by slice."""

    def __init__(
        self, run: Run, network: Network, shape: tuple[int, ...], count: int, rows: Callable[[int, int], Tensor]
    ):
        super().__init__(run)
        self.network, self.shape, self.count, self.rows = network, shape, count, rows
        self.next = 0
        self.outputs: Tensor | None = None

    @property
    def left(self) -> int:
        """Rows not yet done."""
        return self.count - self.next

    def take(self, outputs: Tensor) -> None:
        """Store the outputs of the next rows; finish with the last one."""
        if self.outputs is None:
            self.outputs = outputs.new_empty((self.count, *outputs.shape[1:]))
        self.outputs[self.next : self.next + len(outputs)] = outputs
        self.next += len(outputs)
        if self.left == 0:
            self.finish(self.outputs)


class Device:
    """The scheduler: a queue of jobs and the thread that works it off."""

    def __init__(self, device: torch.device, *, max_batch_rows: int = 16) -> None:
        self.device = device
        self.max_batch_rows = max_batch_rows
        self._jobs: deque[Job[Any]] = deque()
        self._changed = threading.Condition()
        self._closed: EngineUnavailable | None = None
        self._thread = threading.Thread(target=self._work, name=f"heatlens-{device}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread takes work."""
        return self._closed is None and self._thread.is_alive()

    def submit(self, job: Job[T]) -> T:
        """Queue a job and wait for its result."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("the device thread would wait for itself")
        job.run.check()
        with self._changed:
            if self._closed is not None:
                raise self._closed
            self._jobs.append(job)
            self._changed.notify()
        return job.wait()

    def call(self, call: Callable[[], T], run: Run | None = None, *, rows: int = 0) -> T:
        """Run a function on the device thread and return its result."""
        return self.submit(CallJob(run or Run(), call, rows))

    def close(self) -> None:
        """Stop the thread; whoever still waits gets an error."""
        self._stop(EngineUnavailable("the server is shutting down; send the request again"))
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _stop(self, error: EngineUnavailable) -> None:
        with self._changed:
            self._closed = self._closed or error
            left = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for job in left:
            job.fail(error)

    def _work(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._run_batch(batch)
                del batch  # hold nothing of a finished request while waiting for the next one
        except BaseException as defect:
            self._stop(EngineUnavailable(f"the device thread has stopped ({type(defect).__name__})"))
            raise

    def _next_batch(self) -> list[tuple[Job[Any], int]] | None:
        """Wait for work; return jobs with their share of the next batch. None: the device is closed.

        Jobs of the highest priority go first and, among them, the one that has waited longest chooses the model.
        Every job for that model and input shape gets an equal share; what some do not need goes round again.
        """
        with self._changed:
            while True:
                self._drop_unwanted()
                if self._closed is not None:
                    return None
                if self._jobs:
                    break
                self._changed.wait()
            first = max(self._jobs, key=lambda job: job.run.priority)  # the first of equals
            if not isinstance(first, RowsJob):
                self._jobs.remove(first)
                return [(first, 0)]
            sharing = [
                job
                for job in self._jobs
                if isinstance(job, RowsJob) and job.network is first.network and job.shape == first.shape
            ]
            sharing.sort(key=lambda job: -job.run.priority)  # stable: among equals, the order of waiting
            share = dict.fromkeys(sharing, 0)
            room = self.max_batch_rows
            hungry = sharing
            while room and hungry:
                equal = max(1, room // len(hungry))
                for job in hungry:
                    extra = min(equal, job.left - share[job], room)
                    share[job] += extra
                    room -= extra
                hungry = [job for job in hungry if share[job] < job.left]
            batch: list[tuple[Job[Any], int]] = [(job, rows) for job, rows in share.items() if rows]
            for served, _ in batch:  # who was served waits behind who was not
                self._jobs.remove(served)
                self._jobs.append(served)
            return batch

    def _drop_unwanted(self) -> None:
        for job in list(self._jobs):
            try:
                job.run.check()
            except (Cancelled, DeadlineExceeded) as error:
                job.fail(error)
            if job.done:
                self._jobs.remove(job)

    def _run_batch(self, batch: list[tuple[Job[Any], int]]) -> None:
        started = time.monotonic()
        for job, _ in batch:
            job.run.queue_s += started - job.submitted
        first = batch[0][0]
        if isinstance(first, CallJob):
            try:
                result = first.call()
            except Exception as error:
                first.fail(error)
            else:
                first.run.count(first.rows, first.rows, time.monotonic() - started)
                first.finish(result)
            return
        self._forward([(job, rows) for job, rows in batch if isinstance(job, RowsJob)])

    def _forward(self, batch: list[tuple[RowsJob, int]]) -> None:
        started = time.monotonic()
        built: list[tuple[RowsJob, Tensor]] = []
        with torch.inference_mode():
            for job, rows in batch:
                try:
                    built.append((job, job.rows(job.next, job.next + rows)))
                except Exception as error:
                    job.fail(error)  # alone: the others' rows go on
            if not built:
                return
            inputs = [part for _, part in built]
            try:
                outputs = built[0][0].network.forward(inputs[0] if len(inputs) == 1 else torch.cat(inputs))
            except Exception as error:
                if len(built) == 1:
                    built[0][0].fail(error)
                else:
                    for job, part in built:  # find out whose rows they were
                        self._forward([(job, len(part))])
                return
        seconds = time.monotonic() - started
        total = len(outputs)
        start = 0
        for job, part in built:
            job.run.count(len(part), total, seconds * len(part) / total)
            job.submitted = time.monotonic()
            job.take(outputs[start : start + len(part)])
            start += len(part)

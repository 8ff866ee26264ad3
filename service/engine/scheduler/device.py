"""The one thread that owns a device: it packs the work of all waiting requests into full batches.

Requests are plain synchronous code in a pool of threads; they hand jobs to the scheduler and wait. A batch is cut when
the device is free, never on a timer. The highest priority goes first; among equals the models take turns by the device
time they have had, and within a model the kinds of work by how long they have waited. Jobs of a kind take turns by a
quantum of rows, those that need no more than that first, until the batch is full.
"""

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from service.contract import Part, Trace
from service.engine.scheduler.admission import Admission
from service.engine.scheduler.cache import ScoreCache
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import CallJob, Job, Network, PatchesJob, RowsJob, Ticket, TraceJob
from service.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineUnavailable,
    OutOfMemory,
)
from service.precision import Precision
from service.process import ALL_THREADS, release_freed_memory, use_threads

log = logging.getLogger("heatlens")
_RELEASE_S = 2.0  # without work, after which freed memory is given back
QUANTUM = 8  # rows of a job's turn: to build one or two at a time of every job costs more than it is fair
T = TypeVar("T")
Share = list[tuple[Job[Any], int]]


class Device:
    """The scheduler: a queue of jobs and the thread that works it off."""

    def __init__(
        self,
        device: torch.device,
        *,
        max_batch_rows: int = 16,
        unmeasured_batch_rows: int | None = None,
        max_batch_bytes: int = 2**40,
        max_waiting_rows: int = 65_536,
        max_waiting_requests: int = 512,
        cache_bytes: int = 0,
        clean_bytes: int = 512 * 2**20,
        threads: int | None = None,
        observe: Callable[[str, Network, Precision, int, float], None] | None = None,
    ) -> None:
        """Start the thread.

        Args:
            device: what it owns.
            max_batch_rows: most rows of a batch, whatever is measured.
            unmeasured_batch_rows: the same before anything is measured.
            max_batch_bytes: for the tensors alive in one batch of rows.
            max_waiting_rows: passes that may wait.
            max_waiting_requests: requests that may wait or be worked on.
            cache_bytes: for outputs of earlier requests.
            clean_bytes: for the maps of pictures whose boxes are worked off.
            threads: of a CPU, for one forward; default: PyTorch's own choice.
            observe: told after each batch its kind (`rows` or `traces`), network, precision, rows and seconds.
        """
        self.device = device
        self.max_batch_rows = max_batch_rows
        self.unmeasured_batch_rows = min(unmeasured_batch_rows or max_batch_rows, max_batch_rows)
        self.max_batch_bytes = max_batch_bytes
        self.admission = Admission(max_waiting_rows, max_waiting_requests)
        self.cache = ScoreCache(cache_bytes)
        self.clean_bytes = clean_bytes
        self.threads = threads or ALL_THREADS
        self._limits: dict[Hashable, int] = {}  # rows of a batch, by key: measured
        self._caps: dict[Hashable, int] = {}  # the same, learned from running out of memory
        self._jobs: deque[Job[Any]] = deque()
        self._sharable: dict[Hashable, RowsJob] = {}  # jobs under way, by what they will be cached under
        self._served: defaultdict[int, float] = defaultdict(float)  # device time of each network, for taking turns
        self._turn = 0.0
        self._observe = observe
        self._changed = threading.Condition()
        self._closed: EngineUnavailable | None = None
        self._restarts = 1  # of a thread that died
        self._worked = False  # since memory was given back
        self._thread = self._started()

    # What requests call

    @property
    def alive(self) -> bool:
        """Whether the thread takes work."""
        return self._closed is None and self._thread.is_alive()

    def cancel(self, run: Run) -> None:
        """Stop working for a request whose caller has gone."""
        run.cancelled.set()
        with self._changed:
            self._changed.notify()

    def submit(self, job: Job[T], run: Run) -> T:
        """Queue a job and wait for its result."""
        return self._queue(job, run).wait()

    def scores(self, job: RowsJob, run: Run) -> Tensor:
        """Return a job's outputs: kept ones, those of an equal job under way, or its own."""
        with self._changed:
            kept = self.cache.get(job.cache_key) if job.cache_key is not None else None
            under_way = self._sharable.get(job.cache_key) if job.cache_key is not None else None
            run.expected = run.done + job.count
            if kept is not None:
                run.cache = "hit"
                run.avoided += job.count
                run.advance(job.count)
                return kept
            if under_way is not None:
                run.cache = "shared"
                run.avoided += job.count
                run.advance(under_way.next)
                ticket = under_way.join(run)
        if under_way is not None:
            return ticket.wait()
        if job.cache_key is not None:
            run.cache = "miss"
        return self._queue(job, run).wait()

    def call(self, call: Callable[[], T], run: Run | None = None) -> T:
        """Run a function on the device thread and return its result."""
        return self.submit(CallJob(call), run or Run())

    def close(self) -> None:
        """Stop the thread; whoever still waits gets an error."""
        self._stop(EngineUnavailable("the server is shutting down; send the request again"))
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def memory_bytes(self) -> int:
        """Return the memory in use on an accelerator; 0 on a CPU."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0

    # Batch sizes

    def limit(self, key: Hashable) -> int:
        """Return the most rows of one batch of a kind."""
        return min(self._limits.get(key, self.unmeasured_batch_rows), self._caps.get(key, self.max_batch_rows))

    def fitting(self, row_bytes: int) -> int:
        """Return the rows of a batch that memory allows; at least one."""
        return max(1, min(self.max_batch_rows, self.max_batch_bytes // max(row_bytes, 1)))

    def set_limit(self, key: Hashable, rows: int) -> None:
        """Set what was measured to be a good batch size of a kind."""
        self._limits[key] = max(1, min(rows, self.max_batch_rows))

    # The thread

    def _queue(self, job: Job[T], run: Run) -> Ticket[T]:
        if threading.current_thread() is self._thread:
            raise RuntimeError("the device thread would wait for itself")
        run.check()
        with self._changed:
            if self._closed is not None:
                raise self._closed
            if not any(other.network is job.network for other in self._jobs):  # no credit for time spent idle
                self._served[id(job.network)] = max(self._served[id(job.network)], self._turn)
            ticket = job.join(run)
            self._jobs.append(job)
            if isinstance(job, RowsJob) and job.cache_key is not None:
                self._sharable.setdefault(job.cache_key, job)
            self._changed.notify()
        return ticket

    def _finish(self, job: Job[T], result: T) -> None:
        """Answer all who wait; nobody can join any more."""
        with self._changed:
            tickets, job.tickets = job.tickets, []
            if isinstance(job, RowsJob):
                self._forget(job)
                if job.cache_key is not None and isinstance(result, Tensor):
                    self.cache.put(job.cache_key, result)
        for ticket in tickets:
            ticket.finish(result)

    def _fail(self, job: Job[Any], error: BaseException) -> None:
        with self._changed:
            self._forget(job)
            job.fail(error)

    def _forget(self, job: Job[Any]) -> None:
        if isinstance(job, RowsJob):
            job.release()
            if self._sharable.get(job.cache_key) is job:
                del self._sharable[job.cache_key]

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name=f"heatlens-{self.device}", daemon=True)
        thread.start()
        return thread

    def _stop(self, error: EngineUnavailable) -> None:
        with self._changed:
            self._closed = self._closed or error
            left = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for job in left:
            self._fail(job, error)

    def _work(self) -> None:
        use_threads(self.threads)
        batch: Share | None = None
        try:
            while (batch := self._next_batch()) is not None:
                self._run_batch(batch)
                batch = None  # hold nothing of a finished request while waiting for the next one
        except BaseException as defect:
            log.critical("the device thread has stopped", exc_info=defect)
            error = EngineUnavailable(f"the device thread has stopped ({type(defect).__name__})")
            for job, _ in batch or ():
                self._fail(job, error)
            self._stop(error)
            if self._restarts:  # once: a thread that dies again would die for ever
                self._restarts -= 1
                with self._changed:
                    self._closed = None
                    self._thread = self._started()

    def _next_batch(self) -> Share | None:
        """Wait for work; return jobs with their share of the next batch. None: the device is closed."""
        while True:
            with self._changed:
                self._drop_unwanted()
                if self._closed is not None:
                    return None
                if self._jobs:
                    self._worked = True
                    return self._cut()
                idle = not self._changed.wait(_RELEASE_S if self._worked else None)
            if idle:  # its memory is given back, once: what many at a time needed, few do not
                self._worked = False
                release_freed_memory()

    def _cut(self) -> Share:
        """Take the next batch from the queue."""
        first = self._first()
        self._turn = self._served[id(first.network)]
        if isinstance(first, CallJob):
            batch: Share = [(first, 0)]
        else:
            alike = [job for job in self._jobs if job.key == first.key]
            for job in alike:  # behind other kinds of work, also those that find no room this time
                self._jobs.remove(job)
                self._jobs.append(job)
            sharing = self._within_memory(alike)
            # Stable: among equals, the order of waiting.
            sharing.sort(key=lambda job: (-job.priority, job.rows_left > QUANTUM))
            room = self.limit(first.key)
            batch = self._shares(sharing, room)
        for job, _ in batch:  # who was served waits behind who was not
            self._jobs.remove(job)
            if not isinstance(job, CallJob):
                self._jobs.append(job)
        return batch

    def _first(self) -> Job[Any]:
        """Return the job whose kind of work is next."""
        urgent = max(job.priority for job in self._jobs)
        candidates = [job for job in self._jobs if job.priority == urgent]
        return min(candidates, key=lambda job: self._served[id(job.network)])  # the first of equals

    def _within_memory(self, jobs: list[Job[Any]]) -> list[Job[Any]]:
        """Leave out jobs whose pictures' maps would not fit beside those of jobs under way; one always goes on."""
        held = [job.clean.nbytes for job in jobs if isinstance(job, PatchesJob) and job.clean is not None]
        room = (self.clean_bytes - sum(held)) // max(held) if held else 1
        fitting: list[Job[Any]] = []
        for job in jobs:
            if isinstance(job, PatchesJob) and job.clean is None:
                if room <= 0:
                    continue
                room -= 1
            fitting.append(job)
        return fitting

    @staticmethod
    def _shares(jobs: list[Job[Any]], room: int) -> Share:
        """Deal rows out, a quantum a turn."""
        share = dict.fromkeys(jobs, 0)
        hungry = jobs
        while room and hungry:
            for job in hungry:
                extra = min(QUANTUM, job.rows_left - share[job], room)
                share[job] += extra
                room -= extra
            hungry = [job for job in hungry if share[job] < job.rows_left]
        return [(job, rows) for job, rows in share.items() if rows]

    def _drop_unwanted(self) -> None:
        """Answer callers who have gone or whose time is up; drop the jobs that nobody waits for."""
        for job in list(self._jobs):
            for ticket in list(job.tickets):
                try:
                    ticket.run.check()
                except (Cancelled, DeadlineExceeded) as error:
                    ticket.fail(error)
                    job.tickets.remove(ticket)
            if not job.tickets:
                self._jobs.remove(job)
                self._forget(job)

    def _run_batch(self, batch: Share) -> None:
        started = time.monotonic()
        for job, _ in batch:
            for ticket in job.tickets:
                ticket.run.queue_s += started - job.submitted
        first = batch[0][0]
        rows = 0
        if isinstance(first, CallJob):
            self._run_call(first)
        elif isinstance(first, TraceJob):
            rows = self._run_traces([(job, share) for job, share in batch if isinstance(job, TraceJob)])
        else:
            rows = self._run_rows([(job, share) for job, share in batch if isinstance(job, RowsJob)])
        seconds = time.monotonic() - started
        self.admission.count_batch(rows, seconds)
        if first.network is not None:  # calls are the server's own, and not charged
            self._served[id(first.network)] += seconds
        if rows and self._observe is not None and first.network is not None:
            kind, precision = ("rows", first.precision) if isinstance(first, RowsJob) else ("traces", "fp32")
            self._observe(kind, first.network, precision, rows, seconds)

    def _run_call(self, job: CallJob[Any]) -> None:
        started = time.monotonic()
        try:
            result = job.call()
        except Exception as error:
            self._fail(job, error)
        else:
            for ticket in job.tickets:
                ticket.run.count(0, 0, time.monotonic() - started)
            self._finish(job, result)

    def _run_traces(self, batch: list[tuple[TraceJob, int]]) -> int:
        """Run jobs with one key in one pass; return how many passes' worth of work it was."""
        started = time.monotonic()
        built: list[tuple[TraceJob, int, Part]] = []
        for job, share in batch:
            try:
                built.append((job, share, job.build(job.next, job.next + share)))
            except Exception as error:
                self._fail(job, _clear(error))  # alone: the others' rows go on
        if not built:
            return 0
        first = built[0][0]
        total = sum(share for _, share, _ in built)
        assert first.network is not None
        try:
            results = first.network.trace_parts([part for _, _, part in built], first.tracing)
        except Exception as error:
            if out_of_memory(error) and total > 1:
                self._learn_cap(first.key, total)  # the rows are still in their jobs: smaller batches follow
                return 0
            if len(built) == 1:
                self._fail(first, _clear(error))
                return 0
            return sum(self._run_traces([(job, share)]) for job, share, _ in built)  # find out whose they were
        seconds = time.monotonic() - started
        passes = 0
        for (job, share, _), result in zip(built, results, strict=True):
            if isinstance(result, Exception):
                self._fail(job, result)
                continue
            backwards = share * result.objective.shape[1] * bool(job.tracing.wrt)
            passes += share + 2 * backwards
            job.take(result, share)
            job.submitted = time.monotonic()
            for ticket in job.tickets:
                ticket.run.count(share, total, seconds * share / total, backwards=backwards)
            if job.rows_left == 0:
                with self._changed:
                    self._jobs.remove(job)
                self._finish(job, Trace.joined(job.pieces))
        return passes

    @torch.inference_mode()
    def _run_rows(self, batch: list[tuple[RowsJob, int]]) -> int:
        """Run one batch of jobs with one key; return its rows."""
        started = time.monotonic()
        built: list[tuple[RowsJob, int, Any]] = []
        for job, share in batch:
            try:
                built.append((job, share, job.build(job.next, job.next + share)))
            except Exception as error:
                self._fail(job, _clear(error))  # alone: the others' rows go on
        if not built:
            return 0
        first = built[0][0]
        total = sum(share for _, share, _ in built)
        try:
            outputs = first.forward([part for _, _, part in built])
        except Exception as error:
            if out_of_memory(error) and total > 1:
                self._learn_cap(first.key, total)  # the rows are still in their jobs: smaller batches follow
                return 0
            if len(built) == 1:
                self._fail(first, _clear(error))
                return 0
            return sum(self._run_rows([(job, share)]) for job, share, _ in built)  # find out whose rows they were
        seconds = time.monotonic() - started
        start = 0
        for job, share, _ in built:
            job.take(outputs[start : start + share])
            start += share
            job.submitted = time.monotonic()
            for i, ticket in enumerate(list(job.tickets)):
                if i == 0:  # whoever asked first is charged; the others ride along
                    ticket.run.count(share, total, seconds * share / total)
                else:
                    ticket.run.advance(share)
            if job.rows_left == 0:
                with self._changed:
                    self._jobs.remove(job)
                self._finish(job, job.so_far())
        return total

    def _learn_cap(self, key: Hashable, rows: int) -> None:
        self._caps[key] = max(1, rows // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any kind of device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "out of memory" in str(error))


def _clear(error: Exception) -> Exception:
    """Return what to tell the one whose work failed."""
    if out_of_memory(error):
        return OutOfMemory(
            "the device has not enough memory for even one row of this request; choose a smaller model or an earlier "
            "moment"
        )
    return error

"""The one thread that owns a device: it packs the work of all waiting requests into full batches.

Requests are plain synchronous code in a pool of threads; they put work and wait for its result. A batch is cut when the
device is free, never on a timer; which one, `queue` says. How it is run, its work says.

There is one lock, that of the condition `_changed`. Under it stand, for any thread: the queue and the fields of its
items, the tickets of works and the table of whose they are, the works that can be shared, the outputs kept, and whether
the device is closed. What batches make of a work (what was built, what came out, `next`) is the device thread's, which
works on it without the lock; only `next` moves on under it, after the outputs before it are there for good. So no other
thread drops a work: whoever cancels leaves a note, which is read between two batches. Nothing that takes long and
nothing of a network runs under the lock, and neither does what a request wants to be told of its progress by the device
thread. `Limits` are single values, each of which may be read a moment too late; `Admission` has a lock of its own,
which is never taken under this one. A ticket is answered once, and wakes its waiter by itself.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from service.engine.scheduler.admission import Admission
from service.engine.scheduler.cache import ScoreCache
from service.engine.scheduler.claims import Batch, Claims
from service.engine.scheduler.limits import Limits
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import CallWork, Done, Network, Ticket, Work
from service.errors import EngineUnavailable, OutOfMemory
from service.machine.accelerators import memory_bytes, release_memory, reserved_bytes, synchronise
from service.precision import Precision
from service.process import ALL_THREADS, release_freed_memory, use_threads

log = logging.getLogger("heatlens")
_STUCK_S, _OWN_S = 60.0, 600.0  # least time after which a batch, and one for the server itself, is taken to hang
_RELEASE_S = 2.0  # without work, after which freed memory is given back
T = TypeVar("T")


class Device:
    """The scheduler: a queue of work and the thread that works it off."""

    def __init__(
        self,
        device: torch.device,
        *,
        max_batch_rows: int = 16,
        unmeasured_batch_rows: int | None = None,
        max_batch_bytes: int = 2**40,
        max_batch_s: float = 0.25,
        max_trace_bytes: int = 2**40,
        max_waiting_passes: int = 65_536,
        max_waiting_requests: int = 512,
        cache_bytes: int = 0,
        clean_bytes: int = 512 * 2**20,
        threads: int | None = None,
        observe: Callable[[str, Network, Precision, int, float, float], None] | None = None,
        finish: Callable[[torch.device], None] = synchronise,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread.

        Args:
            device: what it owns.
            max_batch_rows: most rows of a batch, whatever is measured.
            unmeasured_batch_rows: the same before anything is measured.
            max_batch_bytes: for the tensors alive in one batch of rows.
            max_batch_s: seconds of one batch, while its good size is being found.
            max_trace_bytes: for the tensors alive in one batch of traces, which keep what their backwards take.
            max_waiting_passes: passes that may wait.
            max_waiting_requests: requests that may wait or be worked on.
            cache_bytes: for outputs of earlier requests.
            clean_bytes: for the maps of pictures whose boxes are worked off.
            threads: of a CPU, for one forward; default: PyTorch's own choice.
            observe: told after each batch its kind (`rows` or `traces`), network, precision, rows, seconds, and how
                full it was: its rows of those that it might have had.
            finish: waits until the device has done what the thread has given it.
            clock: seconds that never go back.
        """
        self.device = device
        self.limits = Limits(max_batch_rows, unmeasured_batch_rows, max_batch_bytes, max_batch_s, max_trace_bytes)
        self.admission = Admission(max_waiting_passes, max_waiting_requests, clock=clock)
        self.cache = ScoreCache(cache_bytes)
        self._claims = Claims(self.cache, clean_bytes)
        self.threads = threads or ALL_THREADS
        self._observe, self._finish, self._clock = observe, finish, clock
        self._changed = threading.Condition()
        self._closed: EngineUnavailable | None = None
        self._restarts = 1  # of a thread that died
        self._worked = False  # since memory was given back
        self._running: tuple[float, bool] | None = None  # since when a batch does, and whether a request's
        self._longest_s = 0.0  # of all batches
        self._thread = self._started()

    @property
    def alive(self) -> bool:
        """Whether the thread takes work."""
        return self._closed is None and self._thread.is_alive()

    def stuck_s(self, after_s: float | None = None) -> float:
        """Return for how long a batch has been running that should long have ended, and needs a restart; 0: none has.

        Args:
            after_s: seconds from which on a batch is taken to hang; default: ten times the longest that ended, and a
                minute at least. What runs for the server itself, as loading does, has ten minutes: it takes its time.
        """
        began, watched = self._running or (self._clock(), True)
        ran_s, longest_s = self._clock() - began, after_s or max(_STUCK_S, 10 * self._longest_s)
        return ran_s if ran_s > (longest_s if watched else max(_OWN_S, longest_s)) else 0.0

    @property
    def waiting(self) -> int:
        """Requests that wait for work."""
        with self._changed:
            return len(self._claims)

    def put(self, work: Work[T], run: Run) -> Ticket[T]:
        """Queue work, and return the claim on its result.

        It may be answered at once, with what was kept of equal work, or share the result of equal work under way.

        Raises:
            EngineUnavailable: the device is closed.
            Cancelled, DeadlineExceeded: the request should not go on.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("the device thread would wait for itself")
        run.check()
        with self._changed:
            if self._closed is not None:
                raise self._closed
            if work.weighs:
                self.limits.weigh(work.key, work.row_bytes)
            ticket = self._claims.put(work, run, self._clock())
            self._changed.notify()
        return ticket

    def submit(self, work: Work[T], run: Run) -> T:
        """Queue work and wait for its result."""
        return self.put(work, run).wait()

    def call(self, call: Callable[[], T], run: Run | None = None, *, watched: bool = False) -> T:
        """Run a function on the device thread and return its result; `watched`: see `CallWork`."""
        return self.submit(CallWork(call, watched=watched), run or Run())

    def cancel(self, run: Run) -> None:
        """Stop working for a request whose caller has gone."""
        run.cancelled.set()
        with self._changed:
            self._claims.cancel(run)
            self._changed.notify()

    def close(self, *, wait: bool = True) -> None:
        """Stop the thread, and `wait` for that; whoever still waits for work gets an error."""
        with self._changed:
            self._closed = self._closed or EngineUnavailable("the server is shutting down; send the request again")
            self._changed.notify()
        if wait and threading.current_thread() is not self._thread:
            self._thread.join()

    def memory_bytes(self) -> int:
        """Return the memory in use on an accelerator; 0 on a CPU."""
        return memory_bytes(self.device)

    def reserved_bytes(self) -> int:
        """Return the memory that PyTorch holds on an accelerator, in use or not; 0 on a CPU."""
        return reserved_bytes(self.device)

    # The thread

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name=f"heatlens-{self.device}", daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        use_threads(self.threads)
        try:
            while (batch := self._next_batch()) is not None:
                self._run(batch)
                del batch  # hold nothing of a finished request while waiting for the next one
        except BaseException as defect:
            log.critical("the device thread has stopped", exc_info=defect)
            self._running = None
            self._stopped(EngineUnavailable(f"the device thread has stopped ({type(defect).__name__})"))

    def _stopped(self, error: EngineUnavailable) -> None:
        """Answer everybody who waits for a thread that has died, and start another one in its place.

        That is done once: a thread that dies again would die for ever.
        """
        with self._changed:
            if self._restarts and self._closed is None:
                self._restarts -= 1
                self._thread = self._started()
            else:
                self._closed = self._closed or error
            tickets = self._claims.forget_all()
        for ticket in tickets:
            ticket.fail(error)

    def _next_batch(self) -> Batch | None:
        """Wait for work and return the next batch; None, and everybody is answered: the device is closed."""
        while True:
            with self._changed:
                if self._closed is not None:
                    for ticket in self._claims.forget_all():
                        ticket.fail(self._closed)
                    return None
                batch = self._claims.cut(self.limits.of, self._clock())
                if batch:
                    self._worked = True
                    return batch
                idle = not self._changed.wait(_RELEASE_S if self._worked else None)
            if idle:  # its memory is given back, once: what many at a time needed, few do not
                self._worked = False
                release_freed_memory()

    def _run(self, batch: Batch) -> None:
        started = self._clock()
        first = batch[0].item
        fill = min(1.0, sum(share.rows for share in batch) / self.limits.of(first.key))
        self._running = started, first.watched
        done = first.run(batch, self._finished)
        seconds = self._clock() - started
        if first.weighs:
            self.limits.weigh(first.key, first.row_bytes)
        self._running = None
        if first.watched:
            self._longest_s = max(self._longest_s, seconds)
        with self._changed:
            self._claims.worked(batch, seconds, again=[one.share for one in done if one.too_many])
            standings = self._claims.queue.standings()
        for one in done:
            self._take(one)
        if any(one.too_many or isinstance(one.error, OutOfMemory) for one in done):
            self.limits.lacked(first.network)
            release_memory(self.device)
        self.admission.count_batch(sum(one.passes for one in done), seconds, standings)
        rows = sum(one.forwards for one in done)
        if not any(one.too_many or one.error is not None for one in done):
            self.limits.worked(first.key, rows, seconds)
        if rows and self._observe is not None and first.network is not None:
            self._observe(first.kind, first.network, first.precision, rows, seconds, fill)

    def _finished(self) -> float:
        """Return the time once the device has done what it was given.

        An accelerator only queues what it is given. Without that wait the thread would be hundreds of batches ahead:
        times, turns, cancelling and deadlines would all be those of the queueing.
        """
        self._finish(self.device)
        return self._clock()

    def _take(self, done: Done) -> None:
        """Take what became of a share: count it, and answer who waits where nothing is left to do."""
        work = done.share.item
        if done.too_many:
            self.limits.too_many(work.key, done.batch_rows)
            work.since = self._clock()
            return
        error, result = done.error, None
        if error is None:
            try:
                work.take(done.result)
                self._advance(work, done)
                if work.next < work.count:
                    return
                result = work.result()
            except Exception as failed:
                error = work.told(failed)
        with self._changed:
            tickets = self._claims.forget(work) if error is not None else self._claims.finish(work, result)
        for ticket in tickets:
            if error is not None:
                ticket.fail(error)
            else:
                ticket.finish(result)

    def _advance(self, work: Work[Any], done: Done) -> None:
        """Tell who waits that some rows are done."""
        with self._changed:  # at once, for who joins in between would count these rows twice, or never
            tickets = self._claims.advance(work, done.share.rows)
        work.since = self._clock()
        for i, ticket in enumerate(tickets):
            if i == 0:  # whoever asked first is charged; the others ride along
                ticket.run.usage.count(done.forwards, done.backwards, done.batch_rows, done.seconds)
            ticket.run.advance(done.passes)

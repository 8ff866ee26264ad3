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
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

from service.engine.scheduler.admission import Admission
from service.engine.scheduler.cache import ScoreCache
from service.engine.scheduler.limits import Limits
from service.engine.scheduler.queue import Queue, Share
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import CallWork, Done, Network, Ticket, Work
from service.errors import Cancelled, DeadlineExceeded, EngineUnavailable
from service.precision import Precision
from service.process import ALL_THREADS, release_freed_memory, use_threads

log = logging.getLogger("heatlens")
_RELEASE_S = 2.0  # without work, after which freed memory is given back
T = TypeVar("T")
Batch = list[Share[Work[Any]]]


class Device:
    """The scheduler: a queue of work and the thread that works it off."""

    def __init__(
        self,
        device: torch.device,
        *,
        max_batch_rows: int = 16,
        unmeasured_batch_rows: int | None = None,
        max_batch_bytes: int = 2**40,
        max_waiting_passes: int = 65_536,
        max_waiting_requests: int = 512,
        cache_bytes: int = 0,
        clean_bytes: int = 512 * 2**20,
        threads: int | None = None,
        observe: Callable[[str, Network, Precision, int, float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread.

        Args:
            device: what it owns.
            max_batch_rows: most rows of a batch, whatever is measured.
            unmeasured_batch_rows: the same before anything is measured.
            max_batch_bytes: for the tensors alive in one batch of rows.
            max_waiting_passes: passes that may wait.
            max_waiting_requests: requests that may wait or be worked on.
            cache_bytes: for outputs of earlier requests.
            clean_bytes: for the maps of pictures whose boxes are worked off.
            threads: of a CPU, for one forward; default: PyTorch's own choice.
            observe: told after each batch its kind (`rows` or `traces`), network, precision, rows and seconds.
            clock: seconds that never go back.
        """
        self.device = device
        self.limits = Limits(max_batch_rows, unmeasured_batch_rows, max_batch_bytes)
        self.admission = Admission(max_waiting_passes, max_waiting_requests, clock=clock)
        self.cache = ScoreCache(cache_bytes)
        self.threads = threads or ALL_THREADS
        self._observe, self._clock = observe, clock
        self._changed = threading.Condition()
        self._queue: Queue[Work[Any]] = Queue(clean_bytes)
        self._claims: dict[Run, list[Ticket[Any]]] = {}  # tickets that are not answered
        self._gone: list[Run] = []  # those that were cancelled since the last batch
        self._sharable: dict[Hashable, Work[Any]] = {}  # works under way, by what their results will be kept under
        self._closed: EngineUnavailable | None = None
        self._restarts = 1  # of a thread that died
        self._worked = False  # since memory was given back
        self._thread = self._started()

    # What requests call

    @property
    def alive(self) -> bool:
        """Whether the thread takes work."""
        return self._closed is None and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Claims that are not answered yet."""
        with self._changed:
            return sum(map(len, self._claims.values()))

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
            if work.cache_key is not None:
                known = self._known(work, run)
                if known is not None:
                    return known
            ticket = self._claim(work, run)
            work.caller, work.priority, work.deadline = self._asked(work)
            work.since = self._clock()
            self._queue.put(work)
            self._changed.notify()
        return ticket

    def submit(self, work: Work[T], run: Run) -> T:
        """Queue work and wait for its result."""
        return self.put(work, run).wait()

    def call(self, call: Callable[[], T], run: Run | None = None) -> T:
        """Run a function on the device thread and return its result."""
        return self.submit(CallWork(call), run or Run())

    def cancel(self, run: Run) -> None:
        """Stop working for a request whose caller has gone."""
        run.cancelled.set()
        with self._changed:
            self._gone.append(run)
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread; whoever still waits gets an error."""
        with self._changed:
            self._closed = self._closed or EngineUnavailable("the server is shutting down; send the request again")
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def memory_bytes(self) -> int:
        """Return the memory in use on an accelerator; 0 on a CPU."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0

    # Works and who waits for them: under the lock

    def _known(self, work: Work[T], run: Run) -> Ticket[T] | None:
        """Answer a request with what equal work has found, or let it wait for what equal work will find."""
        kept = self.cache.get(work.cache_key)
        if kept is not None:
            ticket: Ticket[Any] = Ticket(run)
            ticket.finish(kept)
            run.usage.cache, done = "hit", work.count
        elif (under_way := self._sharable.get(work.cache_key)) is not None:
            ticket = self._claim(under_way, run)
            self._requeue(under_way)
            run.usage.cache, done = "shared", under_way.next
        else:
            self._sharable[work.cache_key] = work
            run.usage.cache = "miss"
            return None
        run.usage.avoided += work.count
        run.advance(done)
        return ticket

    def _claim(self, work: Work[T], run: Run) -> Ticket[T]:
        ticket = Ticket(run, work)
        work.tickets.append(ticket)
        self._claims.setdefault(run, []).append(ticket)
        return ticket

    def _settled(self, ticket: Ticket[Any]) -> Ticket[Any]:
        """Strike a claim that is about to be answered off the list."""
        claims = self._claims[ticket.run]
        claims.remove(ticket)
        if not claims:
            del self._claims[ticket.run]
        return ticket

    def _requeue(self, work: Work[Any]) -> None:
        caller, priority, deadline = self._asked(work)
        self._queue.change(work, caller=caller, priority=priority, deadline=deadline)

    @staticmethod
    def _asked(work: Work[Any]) -> tuple[Hashable, int, float | None]:
        """Return for whom a work is done (whoever asked first), how urgent it is, and until when somebody waits."""
        caller = work.tickets[0].run.caller if work.caller is not None else None
        return caller, work.urgency, work.patience

    def _forget(self, work: Work[Any]) -> list[Ticket[Any]]:
        """Drop a work, and return the claims on it, for somebody to answer."""
        self._queue.remove(work)
        if self._sharable.get(work.cache_key) is work:
            del self._sharable[work.cache_key]
        work.release()
        tickets, work.tickets = work.tickets, []
        return [self._settled(ticket) for ticket in tickets]

    def _wanted(self, work: Work[Any]) -> bool:
        """Answer callers who have gone or whose time is up; drop a work that nobody waits for."""
        waiting = len(work.tickets)
        for ticket in list(work.tickets):
            try:
                ticket.run.check()
            except (Cancelled, DeadlineExceeded) as error:
                work.tickets.remove(ticket)
                self._settled(ticket).fail(error)
        if not work.tickets:
            self._forget(work)
        elif len(work.tickets) < waiting:
            self._requeue(work)
        return bool(work.tickets)

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
            error = EngineUnavailable(f"the device thread has stopped ({type(defect).__name__})")
            with self._changed:
                if self._restarts and self._closed is None:  # once: a thread that dies again would die for ever
                    self._restarts -= 1
                    self._thread = self._started()
                else:
                    self._closed = self._closed or error
                self._fail_all(error)
        else:
            with self._changed:
                assert self._closed is not None
                self._fail_all(self._closed)

    def _fail_all(self, error: EngineUnavailable) -> None:
        for work in list(self._queue):
            for ticket in self._forget(work):
                ticket.fail(error)

    def _next_batch(self) -> Batch | None:
        """Wait for work and return the next batch; None: the device is closed."""
        while True:
            with self._changed:
                self._drop_unwanted()
                if self._closed is not None:
                    return None
                batch = [share for share in self._queue.cut(self.limits.of) if self._wanted(share.item)]
                if batch:
                    self._worked = True
                    return batch
                if len(self._queue):
                    continue  # all of the batch has just been dropped
                idle = not self._changed.wait(_RELEASE_S if self._worked else None)
            if idle:  # its memory is given back, once: what many at a time needed, few do not
                self._worked = False
                release_freed_memory()

    def _drop_unwanted(self) -> None:
        gone, self._gone = self._gone, []
        for run in gone:
            for ticket in list(self._claims.get(run, ())):
                if ticket.work is not None:
                    self._wanted(ticket.work)
        for work in self._queue.expired(self._clock()):
            self._wanted(work)

    def _run(self, batch: Batch) -> None:
        started = self._clock()
        for work, _, _ in batch:
            for ticket in work.tickets:
                ticket.run.usage.queue_s += started - work.since
        first = batch[0].item
        done = first.run(batch, self._clock)
        seconds = self._clock() - started
        with self._changed:
            self._queue.charge(batch, seconds)
        for one in done:
            self._take(one)
        with self._changed:
            self._queue.give_back(one.share for one in done if one.too_many)
        if self.device.type == "cuda" and any(one.too_many for one in done):
            torch.cuda.empty_cache()
        self.admission.count_batch(sum(one.passes for one in done), seconds)
        rows = sum(one.forwards for one in done)
        if rows and self._observe is not None and first.network is not None:
            self._observe(first.kind, first.network, first.precision, rows, seconds)

    def _take(self, done: Done) -> None:
        """Take what became of a share: count it, and answer who waits where nothing is left to do."""
        work = done.share.item
        if done.too_many:
            self.limits.too_many(work.key, done.batch_rows)
        elif done.error is not None:
            self._fail(work, done.error)
        else:
            try:
                work.take(done.result)
                self._advance(work, done)
                if work.next == work.count:
                    self._finish(work, work.result())
            except Exception as error:
                self._fail(work, work.told(error))

    def _advance(self, work: Work[Any], done: Done) -> None:
        """Tell who waits that some rows are done."""
        with self._changed:  # at once, for who joins in between would count these rows twice, or never
            work.next += done.share.rows
            tickets = list(work.tickets)
        work.since = self._clock()
        for i, ticket in enumerate(tickets):
            if i == 0:  # whoever asked first is charged; the others ride along
                ticket.run.usage.count(done.forwards, done.backwards, done.batch_rows, done.seconds)
            ticket.run.advance(done.passes)

    def _finish(self, work: Work[Any], result: Any) -> None:
        with self._changed:
            if work.cache_key is not None:
                self.cache.put(work.cache_key, result)
            tickets = self._forget(work)
        for ticket in tickets:
            ticket.finish(result)

    def _fail(self, work: Work[Any], error: Exception) -> None:
        with self._changed:
            tickets = self._forget(work)
        for ticket in tickets:
            ticket.fail(error)

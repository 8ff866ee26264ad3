"""The kinds of work that wait for a device. Each of them knows how a batch of its kind is run.

RowsWork   outputs of many inputs, built slice by slice; rows of all works with one key share a forward
TraceWork  activations and gradients of inputs, built slice by slice; those with one key share a forward and backwards
CallWork   anything else, alone
"""

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from service.contract import Objective, Pairs, Part, Readout, Rows, Total, Trace, Tracing
from service.engine.scheduler.queue import Item, Share
from service.engine.scheduler.run import Run
from service.errors import OutOfMemory
from service.precision import Precision
from service.process import out_of_memory

T = TypeVar("T")


class Network(Protocol):
    """What the scheduler has to know of a model."""

    def forward(self, rows: Tensor, precision: Precision = "fp32") -> Tensor:
        """Return (N, K) for (N, 3, H, W)."""
        ...

    def trace_parts(self, parts: Sequence[Part], tracing: Tracing) -> list[Trace | Exception]:
        """Trace inputs of several requests in one pass; see `Probe.trace`."""
        ...

    def trace_bytes(self, tracing: Tracing, differentiated: bool) -> int | None:
        """Return the bytes of the tensors alive for each row of such a trace; None: nobody knows yet."""
        ...


class Ticket(Generic[T]):
    """One request's claim on the result of work."""

    def __init__(self, run: Run, work: "Work[T]", since: float) -> None:
        """Let a request wait for work, from a moment on."""
        self.run, self.work, self.since = run, work, since
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

    def answered(self, timeout_s: float) -> bool:
        """Wait for an answer for so long; return whether there is one."""
        return self._answered.wait(timeout_s)

    def wait(self) -> T:
        """Return the result, once there is one, or raise the work's error."""
        self._answered.wait()
        if self._error is not None:
            # A traceback belongs to the thread that raised it; the waiter starts one of its own.
            raise self._error.with_traceback(None)
        return self._result  # type: ignore[return-value]


@dataclass
class Done:
    """What became of a share of a batch: a result, an error, or neither, where memory ran out for so many rows."""

    share: "Share[Work[Any]]"
    batch_rows: int  # that ran together
    result: Any = None
    error: Exception | None = None
    too_many: bool = False
    seconds: float = 0.0
    forwards: int = 0
    backwards: int = 0

    @property
    def passes(self) -> int:
        """What it is counted as: a row's forward is one, its backward two."""
        return self.forwards + 2 * self.backwards


class Work(Item, Generic[T]):
    """Rows that wait for the device, for one request or for several that ask the same.

    A kind of work says how a slice of it is built, what becomes of slices that run together, and how results are put
    together; all else is the same for all.
    """

    kind = "none"  # what its batches are counted as
    precision: Precision = "fp32"
    weighs = False  # whether batches are cut by `row_bytes`
    row_bytes: int | None = None  # of the tensors alive in a batch for each of its rows; None: nobody knows yet

    def __init__(self, network: Network | None, key: Hashable, count: int, *, cache_key: Hashable = None) -> None:
        if count < 1:
            raise ValueError("there is nothing to wait for: work has at least one row")
        super().__init__(key, id(network), count)
        self.network, self.count = network, count
        self.watched = network is not None  # whether it is taken to hang where it does not end
        self.cache_key = cache_key  # works with equal ones have equal results
        self.next = 0  # the first row that is not done
        self.since = 0.0  # when it began to wait for its next batch
        self.tickets: list[Ticket[T]] = []

    # What a kind of work says

    def build(self, i: int, j: int) -> Any:
        """Return what running rows i to j takes."""
        raise NotImplementedError

    def together(self, pieces: Sequence[Any]) -> Sequence[Any]:
        """Run pieces of works with this key; return the result of each, or the error it alone ended in."""
        raise NotImplementedError

    def counted(self, result: Any, rows: int) -> tuple[int, int]:
        """Return how many forwards and backwards a result took."""
        return rows, 0

    def take(self, result: Any) -> None:
        """Keep the result of some rows, from `next` on."""
        raise NotImplementedError

    def result(self) -> T:
        """Return the result of all rows."""
        raise NotImplementedError

    def release(self) -> None:
        """Free what is only needed while rows are left."""

    def told(self, error: Exception) -> Exception:
        """Return what to tell the one whose rows failed."""
        if out_of_memory(error):
            return OutOfMemory(
                "the device has not enough memory for even one row of this request; choose a smaller model or an "
                "earlier moment"
            )
        return error

    # What is the same for all

    def run(self, batch: "Sequence[Share[Work[Any]]]", clock: Callable[[], float]) -> list[Done]:
        """Run a batch of works with this one's key; return what became of each share.

        Rows that fail are found by running every work's rows alone. Where memory runs out, the rows are as they were
        before, for smaller batches to follow; where one row alone is too many, its work fails.
        """
        started = clock()
        done: list[Done] = []
        built: list[tuple[Share[Work[Any]], Any]] = []
        for share in batch:
            work = share.item
            try:
                built.append((share, work.build(work.next, work.next + share.rows)))
            except Exception as error:
                done.append(Done(share, share.rows, error=work.told(error)))
        if not built:
            return done
        rows = sum(share.rows for share, _ in built)
        failed: Exception | None = None
        results: Sequence[Any] = ()
        try:
            results = self.together([piece for _, piece in built])
        except Exception as error:
            failed = error.with_traceback(None)  # its frames hold all that the forward had made so far
        if failed is not None:
            shares, built = [share for share, _ in built], []
            if out_of_memory(failed) and rows > 1:
                return done + [Done(share, rows, too_many=True) for share in shares]
            if len(shares) == 1:
                return [*done, Done(shares[0], rows, error=self.told(failed))]
            return done + [one for share in shares for one in share.item.run([share], clock)]
        own = [
            Done(share, rows, error=result) if isinstance(result, Exception) else Done(share, rows, result)
            for (share, _), result in zip(built, results, strict=True)
        ]
        for one in own:
            if one.error is None:
                one.forwards, one.backwards = one.share.item.counted(one.result, one.share.rows)
        seconds, passes = clock() - started, sum(one.passes for one in own)
        for one in own:
            one.seconds = seconds * one.passes / passes if passes else seconds / len(own)
        return done + own


class CallWork(Work[T]):
    """One function, run on the device thread, which no caller and no network is charged for."""

    def __init__(self, call: Callable[[], T], *, watched: bool = False) -> None:
        """Wait for a call.

        Args:
            call: what is run.
            watched: whether it runs a network on a caller's picture, and hangs where it does not end; the server's own
                work, as loading is, may take its time.
        """
        super().__init__(None, object(), 1)
        self.call, self.watched = call, watched
        self.caller = None
        self.found: T | None = None

    def build(self, i: int, j: int) -> None:
        """Need nothing."""

    def together(self, pieces: Sequence[None]) -> list[T]:
        """Call it."""
        return [self.call()]

    def counted(self, result: T, rows: int) -> tuple[int, int]:
        """Count as nothing."""
        return 0, 0

    def take(self, result: T) -> None:
        """Keep what it returned."""
        self.found = result

    def result(self) -> T:
        """Return what it returned."""
        return self.found  # type: ignore[return-value]

    def told(self, error: Exception) -> Exception:
        """Return the error itself."""
        return error


def rows_key(network: Network, shape: tuple[int, ...], precision: Precision) -> Hashable:
    """Return the key of works whose rows may share a batch."""
    return "rows", id(network), shape, precision


class RowsWork(Work[Tensor]):
    """The outputs (count, K) of inputs of one shape."""

    kind = "rows"

    def __init__(
        self,
        network: Network,
        shape: tuple[int, ...],
        rows: Rows,
        *,
        precision: Precision = "fp32",
        cache_key: Hashable = None,
        readout: Readout | None = None,
    ) -> None:
        super().__init__(network, rows_key(network, shape, precision), rows.count, cache_key=cache_key)
        self.rows_of, self.precision = rows, precision
        self.readout = readout  # makes a table of answers: works share a forward, and each reads its own rows
        self.outputs: Tensor | None = None

    @torch.inference_mode()
    def run(self, batch: Sequence[Share[Work[Any]]], clock: Callable[[], float]) -> list[Done]:
        """See `Work.run`; nothing is recorded for gradients."""
        return super().run(batch, clock)

    def build(self, i: int, j: int) -> Any:
        """Return inputs i to j."""
        return self.rows_of.build(i, j)

    def together(self, pieces: Sequence[Any]) -> Sequence[Any]:
        """Return the outputs of each piece, from one forward."""
        if self.network is None:
            raise TypeError("rows need a network")
        outputs = self.network.forward(pieces[0] if len(pieces) == 1 else torch.cat(list(pieces)), self.precision)
        return torch.split(outputs, [len(piece) for piece in pieces])

    def take(self, result: Tensor) -> None:
        """Keep the outputs of some rows, from `next` on, as a table where there is a readout."""
        if self.readout is not None:
            result = self.readout(result)
        if self.outputs is None:
            self.outputs = result.new_empty((self.count, *result.shape[1:]))
        self.outputs[self.next : self.next + len(result)] = result

    def so_far(self) -> Tensor:
        """Return the outputs of the rows that are done; they do not change any more."""
        return self.outputs[: self.next] if self.outputs is not None else torch.empty(0)

    def result(self) -> Tensor:
        """Return all outputs."""
        return self.so_far()


class TraceWork(Work[Trace]):
    """Activations and gradients of inputs of one shape, or totals of them."""

    kind = "traces"
    weighs = True

    def __init__(
        self,
        network: Network,
        shape: tuple[int, ...],
        rows: Rows,
        tracing: Tracing,
        objective: Objective | None = None,
        total: Total | None = None,
        readout: Readout | None = None,
    ) -> None:
        super().__init__(network, ("trace", id(network), shape, objective is None, tracing), rows.count)
        self.rows_of, self.tracing, self.objective, self.total = rows, tracing, objective, total
        self.readout = readout
        self.passes = 3.0 if tracing.wrt else 1.0  # until the objective has said how many columns it has
        self.row_bytes = network.trace_bytes(tracing, objective is not None)
        self.pieces: list[Trace] = []
        self.totals: tuple[Tensor, ...] = ()

    def build(self, i: int, j: int) -> Part:
        """Return rows i to j with what is asked of them."""
        references = self.rows_of.references(i, j) if isinstance(self.rows_of, Pairs) else None
        return Part(self.rows_of.build(i, j), self.objective, self.total, i, self.readout, references)

    def together(self, pieces: Sequence[Part]) -> list[Trace | Exception]:
        """Trace all pieces in one pass."""
        if self.network is None:
            raise TypeError("rows need a network")
        found = self.network.trace_parts(pieces, self.tracing)
        self.row_bytes = self.network.trace_bytes(self.tracing, self.objective is not None)
        return found

    def counted(self, result: Trace, rows: int) -> tuple[int, int]:
        """Return a forward of each row, and a backward for each column of its objective."""
        rows *= 2 if isinstance(self.rows_of, Pairs) else 1
        return rows, rows * result.objective.shape[1] * bool(self.tracing.wrt)

    def take(self, result: Trace) -> None:
        """Keep the trace of some rows, from `next` on; totals are added up as they come."""
        forwards, backwards = self.counted(result, 1)
        self.passes = forwards + 2.0 * backwards
        sums = zip(self.totals, result.totals, strict=True) if self.pieces else ()
        self.totals = tuple(a + b for a, b in sums) or result.totals
        self.pieces.append(replace(result, totals=()))

    def result(self) -> Trace:
        """Return the trace of all rows."""
        return replace(Trace.joined(self.pieces), totals=self.totals)

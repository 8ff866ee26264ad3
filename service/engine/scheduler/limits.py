"""How many rows a batch may have: what was measured, what memory allows, and what running out of it has taught."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

_BATCHES = 4  # full ones that a number of rows is judged by
_WEIGHED = 4096  # kinds whose bytes are known at once: callers name layers as they like
_GAIN = 1.02  # times as many rows a second as with half of them: what a longer batch has to bring


@dataclass
class _Growing:
    """A kind of batch whose good size is being found."""

    fitting: int  # rows that memory allows
    rows: int = 0  # half of those that are tried, and how many of them run in a second
    rate: float = 0.0
    seconds: list[float] = field(default_factory=list)  # of full batches with the rows that are tried


class Limits:
    """Most rows of one batch, by its key."""

    def __init__(
        self,
        max_rows: int,
        unmeasured_rows: int | None = None,
        max_bytes: int = 2**40,
        max_s: float = 0.25,
        max_trace_bytes: int = 2**40,
    ) -> None:
        """Bound all batches.

        Args:
            max_rows: whatever is measured.
            unmeasured_rows: before anything is; default: the same.
            max_bytes: for the tensors alive in one batch of rows.
            max_s: seconds of one batch.
            max_trace_bytes: for the tensors alive in one batch of traces.
        """
        self.max_rows, self.max_bytes, self.max_s = max_rows, max_bytes, max_s
        self.max_trace_bytes = max_trace_bytes
        self.unmeasured_rows = min(unmeasured_rows or max_rows, max_rows)
        self._measured: dict[Hashable, int] = {}
        self._learned: dict[Hashable, int] = {}
        self._growing: dict[Hashable, _Growing] = {}
        self._weighed: dict[Hashable, int | None] = {}
        self.halved = 0  # times that memory ran out
        self._lacked: Counter[int] = Counter()  # the same, and where one row was too many, by who was asked

    def of(self, key: Hashable) -> int:
        """Return the most rows of one batch of a kind."""
        rows = min(self._measured.get(key, self.unmeasured_rows), self._learned.get(key, self.max_rows))
        if key not in self._weighed:
            return rows
        row_bytes = self._weighed[key]
        return 1 if row_bytes is None else max(1, min(rows, self.max_trace_bytes // max(row_bytes, 1)))

    def weigh(self, key: Hashable, row_bytes: int | None) -> None:
        """Bound a kind of trace by what its rows take; one row is run where nobody knows (None)."""
        self._weighed.pop(key, None)  # so that the oldest goes first
        self._weighed[key] = row_bytes
        while len(self._weighed) > _WEIGHED:
            del self._weighed[next(iter(self._weighed))]

    def fitting(self, row_bytes: int) -> int:
        """Return the rows of so many bytes that memory allows; at least one."""
        return max(1, min(self.max_rows, self.max_bytes // max(row_bytes, 1)))

    def begin(self, key: Hashable, fitting: int) -> None:
        """Begin with few rows of a kind; more are tried as batches are worked off, as many as fit in memory."""
        self.set(key, min(self.unmeasured_rows, fitting))
        self._growing[key] = _Growing(fitting)

    def worked(self, key: Hashable, rows: int, seconds: float) -> None:
        """Learn from a batch that was worked off: while twice as many rows are faster, a row, batches grow."""
        growing, limit = self._growing.get(key), self.of(key)
        if growing is None or rows != limit or seconds <= 0:
            return  # of batches that are not full nothing is learned
        growing.seconds.append(seconds)
        if len(growing.seconds) < _BATCHES:
            return
        rate = rows / min(growing.seconds)  # other work on the machine only adds time
        if rate < _GAIN * growing.rate:
            self.set(key, growing.rows)
        elif 2 * min(growing.seconds) > self.max_s or 2 * rows > min(growing.fitting, self.max_rows):
            del self._growing[key]
        else:
            self._growing[key] = _Growing(growing.fitting, rows, rate)
            self._measured[key] = 2 * rows

    def set(self, key: Hashable, rows: int) -> None:
        """Set what was measured to be a good batch size of a kind."""
        self._growing.pop(key, None)
        self._measured[key] = max(1, min(rows, self.max_rows))

    def forget(self, key: Hashable) -> None:
        """Forget a kind that will not come again."""
        for known in (self._growing, self._measured, self._learned, self._weighed):
            known.pop(key, None)

    def too_many(self, key: Hashable, rows: int) -> None:
        """Remember that memory ran out with so many rows; half as many are tried from then on."""
        self.halved += 1
        self._growing.pop(key, None)
        self._learned[key] = max(1, rows // 2)

    def lacked(self, network: object) -> None:
        """Count that a batch of a network did not find the memory that it needed."""
        self._lacked[id(network)] += 1  # which keeps no network alive

    def lacked_beside(self, network: object) -> int:
        """Return how often batches of all others did not find theirs; only what it grows by means something."""
        return self._lacked.total() - self._lacked[id(network)]

"""How many rows a batch may have: what was measured, what memory allows, and what running out of it has taught."""

from collections.abc import Hashable

import torch


class Limits:
    """Most rows of one batch, by its key."""

    def __init__(self, max_rows: int, unmeasured_rows: int | None = None, max_bytes: int = 2**40) -> None:
        """Bound all batches.

        Args:
            max_rows: whatever is measured.
            unmeasured_rows: before anything is; default: the same.
            max_bytes: for the tensors alive in one batch of rows.
        """
        self.max_rows, self.max_bytes = max_rows, max_bytes
        self.unmeasured_rows = min(unmeasured_rows or max_rows, max_rows)
        self._measured: dict[Hashable, int] = {}
        self._learned: dict[Hashable, int] = {}

    def of(self, key: Hashable) -> int:
        """Return the most rows of one batch of a kind."""
        return min(self._measured.get(key, self.unmeasured_rows), self._learned.get(key, self.max_rows))

    def fitting(self, row_bytes: int) -> int:
        """Return the rows of so many bytes that memory allows; at least one."""
        return max(1, min(self.max_rows, self.max_bytes // max(row_bytes, 1)))

    def set(self, key: Hashable, rows: int) -> None:
        """Set what was measured to be a good batch size of a kind."""
        self._measured[key] = max(1, min(rows, self.max_rows))

    def too_many(self, key: Hashable, rows: int) -> None:
        """Remember that memory ran out with so many rows; half as many are tried from then on."""
        self._learned[key] = max(1, rows // 2)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any kind of device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "out of memory" in str(error))

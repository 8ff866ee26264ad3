"""Score matrices that were computed before: an LRU bounded in bytes."""

from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor


class ScoreCache:
    """Outputs (rows, K) by what they were computed from. Not thread-safe: its owner holds a lock."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> Tensor | None:
        """Return what is kept under a key, as most recently used."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: Hashable, outputs: Tensor) -> None:
        """Keep outputs; the least recently used go. What alone is larger than the bound is not kept."""
        size = outputs.nbytes
        if size > self.max_bytes:
            return
        replaced = self._kept.pop(key, None)
        self.bytes += size - (replaced.nbytes if replaced is not None else 0)
        self._kept[key] = outputs
        while self.bytes > self.max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= oldest.nbytes

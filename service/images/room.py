"""Room for pictures that are in hand: how many are decoded or drawn at a time, and how many bytes they take."""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from service.fair.turns import Turns

SMALL = 32 * 2**20  # bytes: what takes no more waits behind none of what takes longer
_LEAST = 2**20  # bytes that a turn counts as at least: the smallest picture takes its time, too
_LEAD = 4 * SMALL  # bytes that callers who come may start ahead of fair shares


class Room:
    """Places for work on pictures, which callers take turns for by the bytes that they have had.

    What takes many bytes gets half of the places at most, and all of it together stays within a bound, but for a single
    one: so small pictures find a place beside however many large ones, and large ones take no more memory than is set
    aside for them.
    """

    def __init__(self, places: int, max_bytes: int) -> None:
        """Begin empty.

        Args:
            places: how many may be inside; one more where that is what small ones need to pass a large one.
            max_bytes: of all large ones inside.
        """
        self.places, self.max_bytes = places, max_bytes
        self.held = 0  # bytes of large ones inside
        self._changed = threading.Condition()
        self._inside = {True: 0, False: 0}  # by whether they are large
        self._waiting: dict[bool, Turns[Hashable, deque[object]]] = {
            large: Turns(lambda: deque[object](), _LEAD) for large in (True, False)
        }

    @contextmanager
    def place(self, size: int, check: Callable[[], object] = lambda: None, caller: Hashable = "") -> Iterator[None]:
        """Wait for a place, and hold it as long as the block lasts.

        Args:
            size: bytes that the work takes.
            check: called once there is a place; what it raises, it raises for nobody to work on.
            caller: whose turn it takes.
        """
        large, me = size > SMALL, object()
        waiting = self._waiting[large]
        with self._changed:
            waiting.enter(caller)
            waiting[caller].append(me)
            try:
                self._changed.wait_for(lambda: waiting[waiting.first()][0] is me and self._fits(large, size))
                waiting.begin()
                waiting.charge(caller, max(size, _LEAST))
            finally:
                waiting[caller].remove(me)
                if not waiting[caller]:
                    waiting.leave(caller)
            self._inside[large] += 1
            self.held += size * large
            self._changed.notify_all()
        try:
            check()
            yield
        finally:
            with self._changed:
                self._inside[large] -= 1
                self.held -= size * large
                self._changed.notify_all()

    def large(
        self, size: int, check: Callable[[], object] = lambda: None, caller: Hashable = ""
    ) -> AbstractContextManager[None]:
        """Hold a place, as `place` does, for work that takes many bytes; work that takes few needs none."""
        return self.place(size, check, caller) if size > SMALL else nullcontext()

    def _fits(self, large: bool, size: int) -> bool:
        if not large:
            return self._inside[False] < max(1, self.places - self._inside[True])
        if not self._inside[True]:
            return self._inside[False] < self.places
        return self._inside[True] < max(1, self.places // 2) and self.held + size <= self.max_bytes

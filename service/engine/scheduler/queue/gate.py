"""Where work waits that holds memory from its first row to its end, until there is room for it."""

from collections.abc import Hashable
from contextlib import closing
from typing import Generic, Protocol, TypeVar

from service.fair.portions import Portions
from service.fair.turns import Ranking, Turns


class Holder(Hashable, Protocol):
    """What the gate has to know of work."""

    caller: Hashable
    priority: int
    rows: int  # left
    memory: int  # bytes, from its first row to its end
    stamp: int  # lower: it has waited longer


H = TypeVar("H", bound=Holder)


class Gate(Generic[H]):
    """Lets work in as long as all of it together stays within a bound; where nobody is inside, work of any size.

    The highest priority goes first; within one, callers take turns by the bytes that they were let in with, and what
    one caller sends keeps its order. Nobody overtakes those who wait for memory: what is large would never get any.
    But a caller that has its portion already waits for what it has itself, and for that nobody else waits.
    """

    def __init__(self, bound: int) -> None:
        self._room = Portions(bound)
        self._inside: Ranking[H] = Ranking(lambda item: -item.priority)
        self._waiting: dict[int, Turns[Hashable, Ranking[H]]] = {}
        self._priorities: Ranking[int] = Ranking(lambda priority: -priority)

    def put(self, item: H) -> None:
        """Let an item wait."""
        if item.priority not in self._waiting:
            self._waiting[item.priority] = Turns(lambda: Ranking(lambda item: item.stamp), self._room.total)
        callers = self._waiting[item.priority]
        callers.enter(item.caller)
        callers[item.caller].add(item)
        self._priorities.add(item.priority)

    def waits(self, item: H) -> bool:
        """Return whether an item still waits."""
        return item.priority in self._priorities and item in self._waiting[item.priority][item.caller]

    def leave(self, item: H) -> None:
        """Let an item go, from before the gate or from inside."""
        if item in self._inside:
            self._inside.discard(item)
            self._room.give(item.caller, item.memory)
        elif self.waits(item):
            callers = self._waiting[item.priority]
            callers[item.caller].discard(item)
            if not callers[item.caller]:
                callers.leave(item.caller)
            if not callers:
                self._priorities.discard(item.priority)

    @property
    def held(self) -> int:
        """Bytes of all that is inside."""
        return self._room.held

    def changed(self, item: H, caller: Hashable) -> None:
        """Take note of another priority or caller of an item inside, which was another one's before."""
        if item in self._inside:
            self._inside.discard(item)
            self._inside.add(item)
            self._room.give(caller, item.memory)
            self._room.take(item.caller, item.memory)

    def next(self) -> H | None:
        """Let the next one in and return it; None where nobody waits or there is no room."""
        item = self._first(portioned=True)
        if item is None or (self._inside and not self._room.fits(item.memory)):
            return None
        callers = self._waiting[item.priority]
        callers.begin(item.caller)
        self.leave(item)
        callers.charge(item.caller, item.memory)
        self._inside.add(item)
        self._room.take(item.caller, item.memory)
        return item

    def hurrying(self) -> tuple[H, int] | None:
        """Return who has to hurry inside, and with what priority, as somebody of a higher one waits for its memory.

        Else work of a priority in between could keep both of them waiting for ever. One is enough: there is nobody
        where somebody inside already is as urgent. It is the one that has least left to do, and has waited longest.
        """
        waiting = self._first()
        if waiting is None or not self._inside or self._inside.first().priority >= waiting.priority:
            return None
        return min(self._inside, key=lambda item: (item.rows, item.stamp)), waiting.priority

    def _first(self, *, portioned: bool = False) -> H | None:
        """Return who is next; `portioned`: of the callers that have less than their portion."""
        with closing(self._priorities.ascending()) as priorities:
            for priority in priorities:
                callers = self._waiting[priority]
                with closing(callers.ascending()) as waiting:
                    for caller in waiting:
                        if not portioned or self._room.within(caller):
                            return callers[caller].first()
        return None

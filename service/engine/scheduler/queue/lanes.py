"""Items of one kind, priority and caller, and how rows are dealt among them."""

from collections import deque
from collections.abc import Callable, Hashable
from contextlib import closing
from itertools import islice
from typing import Generic

from service.engine.scheduler.queue.items import QUANTUM, Item, W
from service.fair.turns import Ranking

_REMEMBERED = 256  # callers of a kind, whose last batches are known
PASSED_OVER = 3  # batches that small items may have to themselves while others wait


class Kind(Generic[W]):
    """What may share a batch."""

    def __init__(self, key: Hashable, rank: "Callable[[Lane[W]], object]") -> None:
        self.key = key
        self.items = 0
        self._cuts: dict[tuple[int, Hashable], int] = {}  # stamps of the last batches of priorities and callers
        self.lanes: Ranking[Lane[W]] = Ranking(rank)

    def cut(self, lane: "Lane[W]", stamp: int) -> None:
        """Write down when a lane had a part in a batch; that is remembered when it is empty meanwhile."""
        name = lane.priority, lane.caller
        self._cuts.pop(name, None)
        self._cuts[name] = stamp
        if len(self._cuts) > _REMEMBERED:
            del self._cuts[next(iter(self._cuts))]

    def last_cut(self, lane: "Lane[W]") -> int:
        """Return the stamp of the last batch that a lane had a part in."""
        return self._cuts.get((lane.priority, lane.caller), 0)


class Lane(Generic[W]):
    """Items of one kind, priority and caller."""

    def __init__(self, kind: Kind[W], item: W) -> None:
        self.kind, self.priority, self.caller, self.group = kind, item.priority, item.caller, item.group
        self.small: Ranking[W] = Ranking(_stamp)  # no more than a quantum left
        self.large: Ranking[W] = Ranking(_stamp)
        self.passed_over = 0  # batches running that had room for small items only

    def __len__(self) -> int:
        return len(self.small) + len(self.large)

    @property
    def since(self) -> int:
        """The stamp of what has waited longest, or that of the last batch that it had a part in."""
        heads = [ranking.first().stamp for ranking in (self.small, self.large) if ranking]
        return max(min(heads), self.kind.last_cut(self))

    def add(self, item: W) -> None:
        """Line an item up by its stamp."""
        (self.small if item.rows <= QUANTUM else self.large).add(item)

    def discard(self, item: W) -> None:
        """Take an item out."""
        self.small.discard(item)
        self.large.discard(item)

    def deal(self, room: int) -> tuple[dict[W, int], list[W]]:
        """Return how many rows of which items go into a batch with so much room, and whose turns end with that.

        A turn that the batch has no more room for goes on with the next one.
        """
        found: dict[W, int] = {}
        ended: dict[W, None] = {}  # in the order of the last end
        left = room

        def turn(item: W) -> None:
            nonlocal left
            due = item.rows - found.get(item, 0)
            if item.rows > QUANTUM:
                due = min(due, item.due or QUANTUM)
            rows = min(due, left)
            found[item] = found.get(item, 0) + rows
            left -= rows
            item.due = due - rows
            ended.pop(item, None)
            if not item.due:
                ended[item] = None

        if self.passed_over >= PASSED_OVER and self.large:
            turn(self.large.first())
        with closing(self.small.ascending()) as small:
            while left and (item := next(small, None)) is not None:
                turn(item)
        with closing(self.large.ascending()) as large:
            hungry = deque(islice(large, left // QUANTUM + 2)) if left else deque()
        if hungry and hungry[0] in found:
            hungry.rotate(-1)  # it had its turn first
        while left and hungry:
            item = hungry.popleft()
            turn(item)
            if found[item] < item.rows:
                hungry.append(item)
        passed_over = bool(self.large) and not any(item in self.large for item in found)
        self.passed_over = self.passed_over + 1 if passed_over else 0
        return found, list(ended)


def _stamp(item: Item) -> int:
    return item.stamp

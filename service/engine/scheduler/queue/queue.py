"""Items that wait for a device, and which of them is next."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import closing
from typing import Generic

from service.engine.scheduler.queue.gate import Gate
from service.engine.scheduler.queue.items import IDLE, QUANTUM, Share, W
from service.engine.scheduler.queue.lanes import Kind, Lane
from service.fair.turns import Ranking, Standing, Turns

LEAD_S = 2.0  # of device time, that callers and networks without work for a while may start ahead of fair shares


class Queue(Generic[W]):
    """Items that wait for a device; see the module for what is next."""

    def __init__(self, memory: int = 2**62) -> None:
        """Begin empty; all items that have begun together hold no more than so many bytes, but for a single one."""
        self._items: dict[W, None] = {}
        self._lanes: dict[tuple[int, Hashable, Hashable], Lane[W]] = {}
        self._kinds: dict[Hashable, Kind[W]] = {}
        self._levels: dict[int, Turns[Hashable, Turns[Hashable, Ranking[Lane[W]]]]] = {}
        self._priorities: Ranking[int] = Ranking(lambda priority: -priority)
        self._deadlines: Ranking[W] = Ranking(lambda item: item.deadline)
        self._gate: Gate[W] = Gate(memory)
        self._stamp = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[W]:
        """Iterate over all items, also those whose last rows are dealt."""
        return iter(self._items)

    @property
    def held(self) -> int:
        """Bytes that items which have begun, or may begin, hold."""
        return self._gate.held

    def put(self, item: W) -> None:
        """Let an item wait, behind all others.

        Raises:
            ValueError: it has no rows, and would wait for ever.
        """
        if item.rows < 1:
            raise ValueError("there is nothing to wait for: an item has at least one row")
        self._items[item] = None
        self._kinds.setdefault(item.key, Kind(item.key, self._place)).items += 1
        item.stamp = self._next_stamp()
        if item.deadline is not None:
            self._deadlines.add(item)
        self._wait(item, inside=False)

    def remove(self, item: W) -> None:
        """Forget an item, and the memory that it holds; one that is not here does not matter."""
        if item in self._items:
            del self._items[item]
            if item.deadline is not None:
                self._deadlines.discard(item)
            if item.rows:
                self._withdraw(item)
            if item.memory:
                self._gate.leave(item)
            kind = self._kinds[item.key]
            kind.items -= 1
            if not kind.items:
                del self._kinds[item.key]

    def change(self, item: W, *, caller: Hashable, priority: int, deadline: float | None) -> None:
        """Let others wait for an item than before; among its new equals it has waited as long as it has."""
        if item in self._items:
            self._move(item, caller, priority)
            self._deadlines.discard(item)
            item.deadline = deadline
            if deadline is not None:
                self._deadlines.add(item)

    def expired(self, now: float) -> list[W]:
        """Return the items whose deadline has passed, each of them once; they stay until they are removed."""
        found: list[W] = []
        while self._deadlines and (item := self._deadlines.first()).deadline is not None and item.deadline < now:
            self._deadlines.discard(item)
            found.append(item)
        return found

    def cut(self, limit_of: Callable[[Hashable], int]) -> list[Share[W]]:
        """Take the next batch, of at most `limit_of(key)` rows; empty where nothing is left to deal.

        What was taken does not wait any more; `give_back` undoes that, and `remove` ends an item that is done.
        """
        self._let_in()
        if not self._priorities:
            return []
        most = self._priorities.first()
        callers = self._levels[most]
        networks = callers[callers.begin()]
        kind = networks[networks.begin()].first().kind
        now = self._next_stamp()
        room = max(1, limit_of(kind.key))
        dealt: dict[W, int] = {}
        ended: list[W] = []
        with closing(kind.lanes.ascending()) as lanes:
            while room and (lane := next(lanes, None)) is not None:
                if lane.priority <= IDLE < most:
                    break  # somebody would wait for what nobody waits for
                found, own = lane.deal(room)
                kind.cut(lane, now)  # what batches others have of a kind keeps nobody waiting who has none of it
                dealt |= found
                ended += own
                room -= sum(found.values())
        shares = [Share(item, rows, item.stamp) for item, rows in dealt.items()]
        for item in ended:
            item.stamp = self._next_stamp()
        for item, rows in dealt.items():
            self._take(item, rows)
        return shares

    def give_back(self, shares: Iterable[Share[W]]) -> None:
        """Let rows that were not worked off wait again, where they had waited."""
        for item, rows, stamp in shares:
            if item in self._items:
                lane = self._lane(item)
                if lane is not None:
                    lane.discard(item)
                item.rows, item.due, item.stamp = item.rows + rows, 0, stamp
                self._line_up(item)

    def charge(self, shares: Iterable[Share[W]], seconds: float) -> None:
        """Write down the time of a batch with its callers and networks, by the passes that it was for."""
        passes: dict[tuple[int, Hashable, Hashable], float] = {}
        for item, rows, _ in shares:
            name = item.priority, item.caller, item.group
            passes[name] = passes.get(name, 0.0) + rows * item.passes
        total = sum(passes.values())
        for (priority, caller, group), own in passes.items():
            level = self._level(priority)
            level.charge(caller, seconds * own / total)
            level[caller].charge(group, seconds * own / total)

    def standings(self) -> dict[int, Standing]:
        """Return what device time callers have had, in seconds, by priority."""
        return {priority: callers.standing() for priority, callers in self._levels.items()}

    def _next_stamp(self) -> int:
        self._stamp += 1
        return self._stamp

    def _level(self, priority: int) -> Turns[Hashable, Turns[Hashable, Ranking[Lane[W]]]]:
        """Return the turns of one priority; priorities are few, so that none is ever forgotten."""
        if priority not in self._levels:
            self._levels[priority] = Turns(lambda: Turns(lambda: Ranking(lambda lane: lane.since), LEAD_S), LEAD_S)
        return self._levels[priority]

    def _place(self, lane: Lane[W]) -> tuple[float, float, int]:
        """Return what the lanes of a kind are ordered by."""
        return (-lane.priority, *self._levels[lane.priority].place(lane.caller))

    def _wait(self, item: W, *, inside: bool) -> None:
        if item.memory and not inside:
            self._gate.put(item)
        elif item.rows:
            self._line_up(item)

    def _let_in(self) -> None:
        while (item := self._gate.next()) is not None:
            self._line_up(item)
        hurrying = self._gate.hurrying()
        if hurrying is not None:
            item, priority = hurrying
            self._move(item, item.caller, priority)

    def _move(self, item: W, caller: Hashable, priority: int) -> None:
        if (caller, priority) == (item.caller, item.priority):
            return
        waits = self._gate.waits(item)
        self._withdraw(item)
        if waits:
            self._gate.leave(item)
        before, item.caller, item.priority = item.caller, caller, priority
        self._gate.changed(item, before)
        self._wait(item, inside=not waits)

    def _lane(self, item: W) -> Lane[W] | None:
        return self._lanes.get((item.priority, item.caller, item.key))

    def _line_up(self, item: W) -> None:
        """Let an item's rows be dealt."""
        lane = self._lane(item)
        if lane is None:
            callers = self._level(item.priority)
            kind = self._kinds[item.key]
            self._lanes[item.priority, item.caller, item.key] = lane = Lane(kind, item)
            lane.add(item)
            self._priorities.add(item.priority)
            callers.enter(item.caller)
            callers[item.caller].enter(item.group)
            callers[item.caller][item.group].add(lane)
            kind.lanes.add(lane)
        elif item.stamp == self._stamp:
            lane.add(item)  # it has just come, and waits behind all that is there
        else:
            lane.add(item)
            # It may have waited longer than what is there: then the lane's rank falls, which a ranking does not see.
            lanes = self._levels[item.priority][item.caller][item.group]
            lanes.discard(lane)
            lanes.add(lane)

    def _withdraw(self, item: W) -> None:
        """Let an item's rows not be dealt any more."""
        lane = self._lane(item)
        if lane is not None:
            lane.discard(item)
            if not lane:
                self._close(lane)

    def _close(self, lane: Lane[W]) -> None:
        """Forget a lane without items, and that its caller, network and priority have work, where it was the last."""
        del self._lanes[lane.priority, lane.caller, lane.kind.key]
        lane.kind.lanes.discard(lane)
        callers = self._levels[lane.priority]
        networks = callers[lane.caller]
        networks[lane.group].discard(lane)
        if not networks[lane.group]:
            networks.leave(lane.group)
        if not networks:
            callers.leave(lane.caller)
        if not callers:
            self._priorities.discard(lane.priority)

    def _take(self, item: W, rows: int) -> None:
        """Take rows of an item out."""
        was_small = item.rows <= QUANTUM
        item.rows -= rows
        if not item.rows:
            self._withdraw(item)
        elif was_small != (item.rows <= QUANTUM):
            lane = self._lanes[item.priority, item.caller, item.key]
            lane.discard(item)
            lane.add(item)

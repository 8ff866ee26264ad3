"""The scheduler's policy written down naively: a list that is looked through from the start for every decision.

It keeps to what `service/engine/scheduler/queue/` says of itself, and to none of its structures.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

QUANTUM = 8
LEAD_S = 2.0


@dataclass
class Waiting:
    """What is known of one item."""

    name: int
    key: Hashable
    group: Hashable
    caller: Hashable
    priority: int
    rows: int
    passes: float
    memory: int
    deadline: float | None
    stamp: int = 0
    due: int = 0  # rows left of a turn that was cut short
    inside: bool = False  # whether its memory is set aside for it


@dataclass
class Turn:
    """Who takes turns at one place, and what they have had."""

    lead: float
    time: dict[Hashable, float] = field(default_factory=dict)
    came: dict[Hashable, int] = field(default_factory=dict)  # of those present
    turn: float = 0.0
    virtual: float = 0.0

    def come(self, name, now):
        if name in self.came:
            return
        self.time[name] = max(self.time.get(name, self.start()), self.start()) if name is not None else self.turn
        self.came[name] = now

    def start(self):
        return max(self.turn, self.virtual - self.lead)

    def begin(self, name=None):
        name = self.first() if name is None else name
        self.turn = max(self.turn, self.time[name])
        return name

    def charge(self, name, amount):
        self.time[name] = self.time.get(name, self.start()) + amount
        self.virtual += amount / len({*self.came, name} - {None})

    def order(self, name):
        return self.time[name], self.came[name]

    def first(self):
        return min(self.came, key=self.order)


class Naive:
    """The same verbs as `Queue`, with items named by numbers."""

    def __init__(self, memory):
        self.memory = memory
        self.items: list[Waiting] = []
        self.callers: defaultdict[int, Turn] = defaultdict(lambda: Turn(LEAD_S))
        self.networks: defaultdict[tuple, Turn] = defaultdict(lambda: Turn(LEAD_S))
        self.gates: defaultdict[int, Turn] = defaultdict(lambda: Turn(memory))
        self.cuts: defaultdict[Hashable, int] = defaultdict(int)
        self.passed_over: Counter[tuple] = Counter()
        self.reported: set[int] = set()
        self.now = 0

    def _tick(self):
        self.now += 1
        return self.now

    def _attend(self):
        """Let everybody come or go who has something to deal, or nothing any more."""
        here = [item for item in self.items if item.rows and (item.inside or not item.memory)]
        for item in sorted(here, key=lambda item: item.stamp):
            self.callers[item.priority].come(item.caller, self._tick())
            self.networks[item.priority, item.caller].come(item.group, self._tick())
        for priority, turn in self.callers.items():
            turn.came = {n: at for n, at in turn.came.items() if any((priority, n) == _two(i) for i in here)}
        for (priority, caller), turn in self.networks.items():
            present = {item.group for item in here if _two(item) == (priority, caller)}
            turn.came = {n: at for n, at in turn.came.items() if n in present}
        for lane in set(self.passed_over) - {_lane(item) for item in here}:
            del self.passed_over[lane]
        outside = [item for item in self.items if item.memory and not item.inside]
        for item in sorted(outside, key=lambda item: item.stamp):
            self.gates[item.priority].come(item.caller, self._tick())
        for priority, turn in self.gates.items():
            turn.came = {n: at for n, at in turn.came.items() if any((priority, n) == _two(i) for i in outside)}
        return here

    def put(self, item):
        item.stamp = self._tick()
        self.items.append(item)
        self._attend()

    def remove(self, name):
        self.items = [item for item in self.items if item.name != name]
        self._attend()

    def change(self, name, caller, priority, deadline):
        item = self.named(name)
        item.caller, item.priority, item.deadline = caller, priority, deadline
        self.reported.discard(name)
        self._attend()

    def named(self, name):
        return next(item for item in self.items if item.name == name)

    def expired(self, now):
        found = [
            i.name for i in self.items if i.deadline is not None and i.deadline < now and i.name not in self.reported
        ]
        self.reported.update(found)
        return set(found)

    def held(self):
        return sum(item.memory for item in self.items if item.inside)

    def _has_its_portion(self, caller):
        own = sum(item.memory for item in self.items if item.inside and item.caller == caller)
        return caller != "" and own > 0 and own >= 3 * (self.memory - self.held())

    def _let_in(self):
        while True:
            outside = [item for item in self.items if item.memory and not item.inside]
            inside = [item for item in self.items if item.inside]
            if not outside:
                return
            order = sorted({_two(i) for i in outside}, key=lambda two: (-two[0], self.gates[two[0]].order(two[1])))
            chosen = next((two for two in order if not self._has_its_portion(two[1])), None)
            item = min((i for i in outside if _two(i) == chosen), key=lambda item: item.stamp, default=None)
            if item is None or (inside and self.held() + item.memory > self.memory):
                urgent = order[0][0]
                if inside and max(i.priority for i in inside) < urgent:
                    min(inside, key=lambda i: (i.rows, i.stamp)).priority = urgent
                    self._attend()
                return
            urgent, caller = chosen
            item.inside = True
            others = self.gates[urgent]
            others.begin(caller)
            if not any(_two(i) == chosen for i in outside if i is not item):
                del others.came[caller]
            others.charge(caller, item.memory)
            self._attend()

    def cut(self, limit_of):
        self._let_in()
        here = self._attend()
        if not here:
            return []
        urgent = max(item.priority for item in here)
        caller = self.callers[urgent].begin()
        group = self.networks[urgent, caller].begin()
        own = [item for item in here if (item.priority, item.caller, item.group) == (urgent, caller, group)]
        key = min(
            {item.key for item in own},
            key=lambda k: max(min(i.stamp for i in own if i.key == k), self.cuts[urgent, caller, k]),
        )
        now = self._tick()
        room = limit_of(key)
        dealt, ended = {}, []
        alike = [item for item in here if item.key == key]
        lanes = sorted(
            {_lane(item) for item in alike}, key=lambda lane: (-lane[0], self.callers[lane[0]].order(lane[1]))
        )
        for lane in lanes:
            if room:
                found, own = self._deal(
                    lane, sorted((i for i in alike if _lane(i) == lane), key=lambda i: i.stamp), room
                )
                dealt |= found
                ended += own
                room -= sum(found.values())
                self.cuts[lane] = now
        shares = [(name, rows, self.named(name).stamp) for name, rows in dealt.items()]
        for name in ended:
            self.named(name).stamp = self._tick()
        for name, rows in dealt.items():
            self.named(name).rows -= rows
        self._attend()
        return shares

    def _deal(self, lane, items, room):
        small = [item for item in items if item.rows <= QUANTUM]
        large = [item for item in items if item.rows > QUANTUM]
        turns = [*large[:1], *small, *large[1:]] if self.passed_over[lane] >= 3 else [*small, *large]
        found, ended = {}, []
        while room and turns:
            item = turns.pop(0)
            due = item.rows - found.get(item.name, 0)
            if item in large:
                due = min(due, item.due or QUANTUM)
                if due < item.rows - found.get(item.name, 0):
                    turns.append(item)
            rows = min(due, room)
            room -= rows
            found[item.name] = found.get(item.name, 0) + rows
            ended = [name for name in ended if name != item.name]
            item.due = due - rows
            if item.due == 0:
                ended.append(item.name)
        passed_over = large and not any(item.name in found for item in large)
        self.passed_over[lane] = self.passed_over[lane] + 1 if passed_over else 0
        return found, ended

    def give_back(self, shares):
        for name, rows, stamp in shares:
            for item in self.items:
                if item.name == name:
                    item.rows += rows
                    item.stamp = stamp
                    item.due = 0
            self._attend()

    def charge(self, shares, items, seconds):
        passes = Counter()
        for name, rows, _ in shares:
            passes[items[name].priority, items[name].caller, items[name].group] += rows * items[name].passes
        for (priority, caller, group), own in passes.items():
            if caller is not None:
                amount = seconds * own / passes.total()
                self.callers[priority].charge(caller, amount)
                self.networks[priority, caller].charge(group, amount)


def _two(item):
    return item.priority, item.caller


def _lane(item):
    return item.priority, item.caller, item.key

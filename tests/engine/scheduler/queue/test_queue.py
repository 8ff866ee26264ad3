"""The policy of the scheduler, by properties, and against the same policy written down naively. No thread, no clock."""

import sys
from collections import Counter, defaultdict
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from service.engine.scheduler.queue import IDLE, QUANTUM, Item, Queue
from service.engine.scheduler.queue.queue import LEAD_S
from tests.engine.scheduler.queue.naive import Naive, Waiting

MEMORY = 100
KEYS = st.sampled_from([("x", "a"), ("x", "b"), ("y", "c")])  # network, kind of work
CALLERS = st.sampled_from(["", "me", "you"])
PRIORITIES = st.integers(-1, 1)
ROWS = st.integers(1, 40)


class AgainstNaive(RuleBasedStateMachine):
    """Whatever comes, goes, fails and changes: both deal the same rows, and none of them twice or never."""

    items = Bundle("items")

    def __init__(self):
        super().__init__()
        self.queue, self.naive = Queue(MEMORY), Naive(MEMORY)
        self.names, self.known = {}, {}
        self.asked, self.done = {}, Counter()  # rows of each item
        self.numbers = count()

    @rule(
        target=items,
        key=KEYS,
        caller=CALLERS,
        priority=PRIORITIES,
        rows=ROWS,
        passes=st.sampled_from([1.0, 3.0]),
        memory=st.sampled_from([0, 0, 0, 30, 60, 150]),
        deadline=st.none() | st.integers(0, 20),
    )
    def put(self, key, caller, priority, rows, passes, memory, deadline):
        item, name = Item(key, key[0], rows, caller, priority, passes, memory, deadline), next(self.numbers)
        self.names[item], self.asked[item] = name, rows
        self.known[name] = Waiting(name, key, key[0], caller, priority, rows, passes, memory, deadline)
        self.queue.put(item)
        self.naive.put(self.known[name])
        return item

    @rule(target=items, priority=PRIORITIES)
    def put_a_call(self, priority):
        """The server's own work: alone, and never charged."""
        item, name = Item(object(), None, 1, None, priority), next(self.numbers)
        self.names[item], self.asked[item] = name, 1
        self.known[name] = Waiting(name, item.key, None, None, priority, 1, 1.0, 0, None)
        self.queue.put(item)
        self.naive.put(self.known[name])
        return item

    @rule(item=consumes(items))
    def remove(self, item):
        self.queue.remove(item)
        self.naive.remove(self.names[item])

    @rule(item=items, caller=CALLERS, priority=PRIORITIES, deadline=st.none() | st.integers(0, 20))
    def change(self, item, caller, priority, deadline):
        if item not in set(self.queue) or item.caller is None:
            return
        self.queue.change(item, caller=caller, priority=priority, deadline=deadline)
        self.naive.change(self.names[item], caller, priority, deadline)

    @rule(now=st.integers(0, 20))
    def expire(self, now):
        found = self.queue.expired(now)
        assert {self.names[item] for item in found} == self.naive.expired(now)
        assert [item.deadline for item in found] == sorted(item.deadline for item in found)

    @rule(
        limit=st.integers(1, 40),
        seconds=st.integers(0, 9),
        fates=st.lists(st.sampled_from(["done", "done", "done", "again", "failed"]), min_size=40, max_size=40),
    )
    def batch(self, limit, seconds, fates):
        shares = self.queue.cut(lambda key: limit)
        named = [(self.names[item], rows, stamp) for item, rows, stamp in shares]
        other = self.naive.cut(lambda key: limit)
        assert [share[:2] for share in named] == [share[:2] for share in other]
        assert len({item.key for item, _, _ in shares}) <= 1
        assert sum(rows for _, rows, _ in shares) <= limit
        self.priorities_hold(shares)
        self.queue.charge(shares, seconds)
        self.naive.charge(other, self.known, seconds)
        again, other_again = [], []
        for share, one, fate in zip(shares, other, fates, strict=False):
            if fate == "again":
                again.append(share)
                other_again.append(one)
                continue
            self.done[share.item] += share.rows
            if fate == "failed" or not share.item.rows:
                self.queue.remove(share.item)
                self.naive.remove(one[0])
        self.queue.give_back(again)
        self.naive.give_back(other_again)

    def priorities_hold(self, shares):
        """Nothing is dealt of a lower priority before the last row of a higher one, of any kind, then of this kind."""
        may_begin = {item.name: item.inside or not item.memory for item in self.naive.items}
        left = [item for item in self.queue if item.rows and may_begin[self.names[item]]]
        most = max((share.item.priority for share in shares), default=None)
        assert all(item.priority <= most for item in left)
        for share in shares:
            assert all(i.priority <= share.item.priority for i in left if i.key == share.item.key)

    @invariant()
    def nothing_is_lost(self):
        assert {self.names[item] for item in self.queue} == {item.name for item in self.naive.items}
        assert {self.names[item]: item.rows for item in self.queue} == {i.name: i.rows for i in self.naive.items}
        assert self.queue.held == self.naive.held()
        for item in self.queue:
            assert self.done[item] + item.rows == self.asked[item]

    @invariant()
    def memory_is_bounded(self):
        inside = [item for item in self.naive.items if item.inside]
        assert self.queue.held <= MEMORY or len(inside) == 1

    def teardown(self):
        """Work all off, and find that nothing is kept of it."""
        while shares := self.queue.cut(lambda key: 16):
            self.queue.charge(shares, 1.0)
            for share in shares:
                self.done[share.item] += share.rows
                if not share.item.rows:
                    assert self.done[share.item] == self.asked[share.item]
                    self.queue.remove(share.item)
        assert not len(self.queue)
        assert not self.queue._lanes
        assert not self.queue._kinds
        assert not self.queue._priorities
        assert not self.queue._deadlines
        assert self.queue.held == 0
        assert not any(self.queue._levels.values())


AgainstNaive.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAgainstNaive = AgainstNaive.TestCase


def _batch(queue, limit=8, seconds=0.25):
    """Cut a batch, charge it, and remove what is done."""
    shares = queue.cut(lambda key: limit)
    queue.charge(shares, seconds)
    for share in shares:
        if not share.item.rows:
            queue.remove(share.item)
    return shares


def _rows_of(shares, item):
    return sum(share.rows for share in shares if share.item is item)


# Each puts one more of what would go before a large item of the caller "me" on network "x", for ever.
RIVALS = {
    "small ones": lambda i: Item("a", "x", 8, "me"),
    "large ones": lambda i: Item("a", "x", 100, "me"),
    "another kind": lambda i: Item("b", "x", 8, "me"),
    "ever new kinds": lambda i: Item(("b", i), "x", 8, "me"),
    "another network": lambda i: Item("c", "y", 8, "me"),
    "ever new networks": lambda i: Item(("c", i), ("y", i), 8, "me"),
    "another caller": lambda i: Item("a", "x", 100, "you"),
    "ever new callers": lambda i: Item("a", "x", 8, f"caller {i}"),
    "ever new callers of other networks": lambda i: Item("c", "y", 8, f"caller {i}"),
    "calls that take no time": lambda i: Item(object(), None, 1, None) if i % 2 else Item("a", "x", 8, "me"),
}


def _served(rivals, seconds, levels=1):
    """Return how often a large item was served, while rivals come, a batch's worth at a time."""
    queue, mine = Queue(), Item("a", "x", 10_000, "me")
    waited = 0
    for i, rival in enumerate(rivals):
        if rival is not None:
            queue.put(RIVALS[rival](i))
        if i == 0:
            queue.put(mine)
        waited = 0 if _rows_of(_batch(queue, seconds=seconds), mine) else waited + 1
        # A turn for each of those that wait, and what newcomers may be ahead of fair shares.
        assert waited <= levels * (LEAD_S / seconds + 2) * (len(queue) + 1)
    return (10_000 - mine.rows) / QUANTUM


@pytest.mark.parametrize("rival", RIVALS)
def test_nobody_starves(rival):
    """Every item is served now and then, however many come that might go first, as fast as they are worked off."""
    assert _served([rival] * 400, 0.25) >= 5


@given(
    rivals=st.lists(st.sampled_from([None, *RIVALS]), min_size=40, max_size=100),
    seconds=st.sampled_from([0.2, 0.5]),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_nobody_starves_whatever_comes(rivals, seconds):
    assert _served(rivals, seconds, levels=2) >= 1  # rivals among callers and among networks add up


@given(
    networks=st.lists(st.sampled_from("xyz"), min_size=2, max_size=6),
    callers=st.lists(st.sampled_from(["", "me", "you"]), min_size=6, max_size=6),
    seconds=st.lists(st.floats(0.01, 1.0), min_size=60, max_size=60),
    limit=st.integers(1, 64),
)
@settings(max_examples=100, deadline=None)
def test_shares_are_fair(networks, callers, seconds, limit):
    """Callers with enough to do have had the same time, and so have the networks of each, but for a batch."""
    queue = Queue()
    for network, caller in zip(networks, callers, strict=False):
        queue.put(Item((network, "rows"), network, 10**6, caller))
    had = defaultdict(float, {(item.caller, item.group): 0.0 for item in queue})
    most = 0.0
    for batch_s in seconds:
        shares = queue.cut(lambda key: limit)
        queue.charge(shares, batch_s)
        assert len({share.item.caller for share in shares}) == 1  # whoever's turn it is has rows enough
        had[shares[0].item.caller, shares[0].item.group] += batch_s
        most = max(most, batch_s)
        by_caller = defaultdict(float)
        for (caller, _), time in had.items():
            by_caller[caller] += time
        assert max(by_caller.values()) - min(by_caller.values()) <= most + 1e-9
        for caller in by_caller:
            own = [time for (other, _), time in had.items() if other == caller]
            assert max(own) - min(own) <= most + 1e-9


@given(idle=st.integers(0, 40), limit=st.integers(1, 16))
@settings(max_examples=40, deadline=None)
def test_there_is_no_credit_for_time_spent_idle(idle, limit):
    """Who was away gets half from then on, and not all until it has caught up."""
    queue, mine, yours = Queue(), Item("a", "x", 10**6, "me"), Item("b", "y", 10**6, "you")
    queue.put(mine)
    for _ in range(idle):
        _batch(queue, limit)
    queue.put(yours)
    turns = [shares[0].item for shares in (_batch(queue, limit) for _ in range(20))]
    assert abs(turns.count(mine) - turns.count(yours)) <= 1


def test_a_batch_is_paid_for_by_the_passes_that_it_was_for():
    """Who asks for sixteen backwards a row pays for sixteen, also where the rows share a batch."""
    queue = Queue()
    dear, cheap = Item("a", "x", 4, "dear", passes=33), Item("a", "x", 4, "cheap")
    queue.put(dear)
    queue.put(cheap)
    _batch(queue, seconds=34.0)
    # The next ones come while somebody else is at work: both are at their own account again.
    queue.put(Item("z", "z", 1, "third"))
    later = [Item("a", "x", 8, "dear"), Item("a", "x", 8, "cheap")]
    for item in later:
        queue.put(item)
    order = [share.item for _ in range(3) for share in _batch(queue, limit=8, seconds=0.0)]
    assert order.index(later[1]) < order.index(later[0])


@given(rows=st.lists(st.integers(1, QUANTUM), min_size=1, max_size=30), limit=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_small_equals_are_served_in_the_order_of_waiting(rows, limit):
    queue = Queue()
    items = [Item("a", "x", count) for count in rows]
    for item in items:
        queue.put(item)
    begun, done = [], []
    while len(queue):
        for share in _batch(queue, limit):
            begun += [share.item] if share.item not in begun else []
            done += [share.item] if not share.item.rows else []
    assert begun == items
    assert done == items


@given(n=st.integers(1, 12), limit=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_large_equals_are_served_in_turns(n, limit):
    queue = Queue()
    items = [Item("a", "x", 1000) for _ in range(n)]
    for item in items:
        queue.put(item)
    had = Counter()
    for _ in range(50):
        for share in _batch(queue, limit):
            had[share.item] += share.rows
    assert max(had.values()) - min(had[item] for item in items) <= QUANTUM
    assert list(had) == items[: len(had)]


def test_small_items_go_first_and_large_ones_fill_the_batch():
    queue = Queue()
    large, small = Item("a", "x", 100), Item("a", "x", 3)
    queue.put(large)
    queue.put(small)
    assert [(share.item, share.rows) for share in _batch(queue, 16)] == [(small, 3), (large, 13)]


def test_idle_work_makes_nobodys_batch_longer():
    queue: Queue[Item] = Queue()
    idle, low, mine = (Item("a", "x", 8, priority=priority) for priority in (IDLE, -10, 0))
    for item in (idle, low, mine):
        queue.put(item)
    assert [(share.item, share.rows) for share in queue.cut(lambda key: 64)] == [(mine, 8), (low, 8)]
    assert [(share.item, share.rows) for share in queue.cut(lambda key: 64)] == [(idle, 8)]


def test_small_items_do_not_take_more_than_three_batches_running():
    queue, large = Queue(), Item("a", "x", 100)
    queue.put(large)
    had = []
    for _ in range(12):
        queue.put(Item("a", "x", 8))
        queue.put(Item("a", "x", 8))
        had.append(_rows_of(_batch(queue, 16), large))
    assert had == [0, 0, 0, 8] * 3


def test_rows_that_come_back_are_where_they_were():
    queue = Queue()
    items = [Item("a", "x", 4) for _ in range(4)]
    for item in items:
        queue.put(item)
    shares = queue.cut(lambda key: 8)
    queue.put(Item("a", "x", 4))
    queue.give_back(shares)
    assert [share.item for share in queue.cut(lambda key: 8)] == items[:2]


def test_a_turn_whose_rows_come_back_is_had_anew():
    queue = Queue()
    items = [Item("a", "x", 100) for _ in range(2)]
    for item in items:
        queue.put(item)
    shares = queue.cut(lambda key: 13)  # a turn, and five rows of the next one
    queue.give_back(shares)
    assert [(share.item, share.rows) for share in queue.cut(lambda key: 16)] == [(items[0], 8), (items[1], 8)]


def test_a_turn_that_is_cut_short_goes_on_first():
    queue = Queue()
    items = [Item("a", "x", 100) for _ in range(2)]
    for item in items:
        queue.put(item)
    dealt = [[(items.index(share.item), share.rows) for share in _batch(queue, 20)] for _ in range(4)]
    # Turns of eight: 0, 1, half of 0 | the other half, 1, 0 | 1, 0, half of 1 | the other half, 0, 1.
    assert dealt == [[(0, 12), (1, 8)], [(0, 12), (1, 8)], [(1, 12), (0, 8)], [(1, 12), (0, 8)]]


def test_a_kind_of_work_does_not_wait_for_what_others_have_of_it():
    """Else whoever has much of a kind would keep from it all who have something else, too, as long as that lasts."""
    queue, mine = Queue(), Item("b", "x", 2, "me")
    for item in (Item("a", "x", 1000, "me"), Item("b", "x", 1000, "you"), mine):
        queue.put(item)
    batches = 0
    while mine.rows:
        _batch(queue)
        batches += 1
    assert batches <= 4


def test_a_kind_whose_rows_come_back_still_waits_behind_the_others():
    """Else a kind that runs out of memory again and again would keep all others waiting."""
    queue, one, other = Queue(), Item("a", "x", 4), Item("b", "x", 4)
    queue.put(one)
    queue.put(other)
    shares = queue.cut(lambda key: 8)
    queue.give_back(shares)
    assert [share.item for share in queue.cut(lambda key: 8)] == [other]


def test_what_holds_memory_waits_for_it_and_one_always_goes_on():
    queue = Queue(memory=10)
    items = [Item("a", "x", 20, memory=size) for size in (25, 4, 4, 4)]
    for item in items:
        queue.put(item)
    begun, held = set(), []
    while len(queue):
        begun |= {share.item for share in queue.cut(lambda key: 8)}
        held.append(sum(item.memory for item in begun if item in set(queue)))
        for item in begun:
            if not item.rows:
                queue.remove(item)
    assert begun == set(items)
    assert max(held) == 25  # more than there is, and therefore alone
    assert max(size for size in held if size != 25) == 8


def test_callers_take_turns_for_memory_too():
    queue, modest = Queue(memory=4), Item("a", "x", 8, "modest", memory=4)
    for _ in range(20):
        queue.put(Item("a", "x", 8, "greedy", memory=4))
    queue.put(modest)
    order = [share.item.caller for _ in range(21) for share in _batch(queue)]
    assert order.index("modest") <= 1


def test_who_holds_the_memory_that_an_urgent_one_waits_for_hurries():
    """Else work of a priority in between would keep both waiting for ever."""
    queue = Queue(memory=10)
    holders = [Item("a", "x", rows, memory=5) for rows in (80, 40)]
    for item in holders:
        queue.put(item)
    _batch(queue, 16)
    urgent = Item("b", "y", 8, priority=2, memory=5)
    queue.put(urgent)
    batches = []
    while not batches or urgent not in batches[-1]:
        queue.put(Item("c", "z", 8, priority=1))
        batches.append({share.item for share in _batch(queue)})
    assert len(batches) <= 10
    assert holders[1] not in set(queue)  # the one with less left to do
    assert holders[0].priority == 0


def test_deadlines_are_told_once_and_in_their_order():
    queue = Queue()
    items = [Item("a", "x", 1, deadline=at) for at in (5.0, 3.0, None, 4.0, 9.0)]
    for item in items:
        queue.put(item)
    assert queue.expired(3.0) == []  # to the last moment
    assert queue.expired(6.0) == [items[1], items[3], items[0]]
    assert queue.expired(6.0) == []
    queue.change(items[1], caller="", priority=0, deadline=7.0)  # somebody else waits for it still
    queue.remove(items[4])
    assert queue.expired(100.0) == [items[1]]


def test_nothing_to_deal_is_no_batch_and_no_rows_are_no_item():
    queue = Queue()
    assert queue.cut(lambda key: 8) == []
    with pytest.raises(ValueError, match="at least one row"):
        queue.put(Item("a", "x", 0))
    queue.put(item := Item("a", "x", 1))
    queue.cut(lambda key: 8)
    assert queue.cut(lambda key: 8) == []
    assert list(queue) == [item]  # its last row is being worked off
    queue.remove(item)
    queue.remove(item)
    assert not len(queue)


class _Watched(Item):
    """An item that counts how often it is looked at."""

    looks = 0

    def __getattribute__(self, name):
        if not name.startswith("_"):
            _Watched.looks += 1
        return super().__getattribute__(name)


def _operations(many, callers):
    """Return the calls and the looks at items of a batch, while so many items of so many callers wait."""
    queue, numbers = Queue(memory=50), count()

    def one():
        i = next(numbers)
        key = ("x", "ab"[i % 2]) if i % 5 else ("y", i % 40)
        return _Watched(key, key[0], 1 + i * 7 % 60, str(i % callers), i % 3, 1.0, 10 * (i % 4 == 1), float(i))

    for _ in range(many):
        queue.put(one())
    calls = 0

    def counting(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    _Watched.looks = 0
    sys.setprofile(counting)
    try:
        for turn in range(100):
            queue.expired(turn / 100)
            shares = queue.cut(lambda key: 24)
            queue.charge(shares, 0.1)
            queue.give_back(shares[:1])
            for item, _, _ in shares:
                if not item.rows:
                    queue.remove(item)
                    queue.put(one())
    finally:
        sys.setprofile(None)
    return calls, _Watched.looks


@pytest.mark.parametrize("callers", [1, 10_000])
def test_a_batch_costs_as_much_with_16_as_with_4096_items(callers):
    few, many = _operations(16, callers), _operations(4096, callers)
    assert many[0] < 2 * few[0]
    assert many[1] < 2 * few[1]

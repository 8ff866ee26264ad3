"""Work that holds memory waits until there is room for it."""

from service.engine.scheduler.queue import Item
from service.engine.scheduler.queue.gate import Gate


def _item(stamp, memory, caller="", priority=0, rows=8):
    item = Item("a", "x", rows, caller, priority, memory=memory)
    item.stamp = stamp
    return item


def _let_in(gate):
    found = []
    while (item := gate.next()) is not None:
        found.append(item)
    return found


def test_as_many_are_let_in_as_there_is_room_for():
    gate, items = Gate(10), [_item(i, 4) for i in range(4)]
    for item in reversed(items):
        gate.put(item)
    assert _let_in(gate) == items[:2]  # in the order of waiting, whenever they came to the gate
    assert gate.held == 8
    assert [gate.waits(item) for item in items] == [False, False, True, True]
    gate.leave(items[0])
    gate.leave(items[0])  # it has left already
    assert _let_in(gate) == items[2:3]
    assert gate.held == 8


def test_alone_any_size_is_let_in_and_nobody_overtakes_it():
    gate, large, small = Gate(10), _item(2, 50), _item(3, 1)
    gate.put(first := _item(1, 4))
    assert _let_in(gate) == [first]
    gate.put(large)
    gate.put(small)
    assert _let_in(gate) == []
    gate.leave(first)
    assert _let_in(gate) == [large]
    gate.leave(large)
    assert _let_in(gate) == [small]


def test_who_gives_up_waiting_keeps_nobody_waiting():
    gate, large, small = Gate(10), _item(2, 50), _item(3, 1)
    gate.put(first := _item(1, 4))
    assert _let_in(gate) == [first]
    for item in (large, small):
        gate.put(item)
    gate.leave(large)
    assert _let_in(gate) == [small]
    assert gate.held == 5


def test_higher_priorities_go_first_and_callers_take_turns():
    gate = Gate(100)
    items = [_item(1, 4, "a"), _item(2, 4, "a"), _item(3, 4, "a"), _item(4, 4, "b"), _item(5, 4, "a", priority=1)]
    for item in items:
        gate.put(item)
    assert _let_in(gate) == [items[4], items[0], items[3], items[1], items[2]]


def test_a_caller_that_has_its_portion_waits_for_itself_and_keeps_nobody_waiting():
    gate = Gate(100)
    items = [_item(i, 10, "a") for i in range(10)]
    for item in items:
        gate.put(item)
    assert _let_in(gate) == items[:8]  # until it holds three times what is free
    for item in (other := _item(20, 15, "b"), large := _item(21, 40, "c"), small := _item(22, 5, "d")):
        gate.put(item)
    assert _let_in(gate) == [other]
    assert gate.held == 95
    gate.leave(items[0])
    gate.leave(items[1])
    assert _let_in(gate) == []  # where there is no room for who holds nothing, nobody overtakes it
    gate.leave(large)
    assert _let_in(gate) == [small]
    gate.leave(other)
    assert gate.held == 65
    assert _let_in(gate) == items[8:]


def test_one_hurries_where_a_more_urgent_one_waits():
    gate = Gate(10)
    long, short = _item(1, 5, rows=80), _item(2, 5, rows=20)
    for item in (long, short):
        gate.put(item)
    assert _let_in(gate) == [long, short]
    assert gate.hurrying() is None  # nobody waits
    gate.put(urgent := _item(3, 5, priority=2))
    assert gate.next() is None
    assert gate.hurrying() == (short, 2)
    short.priority = 2
    gate.changed(short, "")
    assert gate.hurrying() is None  # one that is as urgent is enough
    gate.leave(short)
    assert gate.next() is urgent
    assert gate.hurrying() is None

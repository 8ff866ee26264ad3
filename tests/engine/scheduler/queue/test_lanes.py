"""How rows are dealt among items of one kind, priority and caller."""

import pytest

from service.engine.scheduler.queue import Item
from service.engine.scheduler.queue.lanes import Kind, Lane


def _lane(*rows):
    kind = Kind("a", lambda lane: 0)
    items = [Item("a", "x", count) for count in rows]
    lane = Lane(kind, items[0])
    for stamp, item in enumerate(items, 1):
        item.stamp = stamp
        lane.add(item)
    return lane, items


@pytest.mark.parametrize(
    ("rows", "room", "dealt"),
    [
        ((3,), 8, {0: 3}),
        ((30,), 20, {0: 20}),
        ((30, 3), 8, {1: 3, 0: 5}),  # small ones first
        ((30, 30, 3), 24, {2: 3, 0: 13, 1: 8}),  # a turn each, and then from the front again
        ((4, 4, 4), 9, {0: 4, 1: 4, 2: 1}),
        ((10, 12), 100, {0: 10, 1: 12}),
        ((100, 10, 100), 40, {0: 16, 1: 10, 2: 14}),
    ],
)
def test_rows_are_dealt_in_turns(rows, room, dealt):
    lane, items = _lane(*rows)
    found, _ = lane.deal(room)
    assert found == {items[i]: count for i, count in dealt.items()}
    assert [item.rows for item in items] == list(rows)  # nothing is taken yet


def test_turns_that_end_are_told_in_the_order_of_their_ends():
    lane, items = _lane(100, 100, 2)
    _, ended = lane.deal(2 + 8 + 8 + 8)
    assert ended == [items[2], items[1], items[0]]
    lane, items = _lane(100, 100, 2)
    _, ended = lane.deal(2 + 8 + 3)
    assert ended == [items[2], items[0]]
    assert [item.due for item in items] == [0, 5, 0]


def test_a_lane_has_waited_since_its_first_item_or_its_last_batch():
    lane, items = _lane(3, 30)
    assert lane.since == 1
    lane.discard(items[0])
    assert lane.since == 2
    lane.kind.cut(lane, 9)
    assert lane.since == 9


def test_large_ones_are_passed_over_three_times_at_most():
    lane, items = _lane(100, *(8,) * 20)
    had = [lane.deal(16)[0].get(items[0], 0) for _ in range(8)]
    assert had == [0, 0, 0, 8] * 2

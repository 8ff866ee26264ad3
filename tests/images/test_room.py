"""Places for pictures: bounded in number and bytes, in the order of coming, small ones never behind large ones."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.images.room import SMALL, Room

PATIENCE_S = 60.0
BIG = 100 * 2**20


class Visitor:
    """Holds a place until it is let go, in a thread of its own."""

    def __init__(self, pool: ThreadPoolExecutor, room: Room, size: int) -> None:
        self.inside, self.go = threading.Event(), threading.Event()
        self.done = pool.submit(self._visit, room, size)

    def _visit(self, room: Room, size: int) -> None:
        with room.place(size):
            self.inside.set()
            assert self.go.wait(PATIENCE_S)

    def entered(self) -> "Visitor":
        assert self.inside.wait(PATIENCE_S)
        return self

    def leave(self) -> None:
        self.go.set()
        self.done.result(PATIENCE_S)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as threads:
        yield threads


def waits(room: Room, count: int) -> bool:
    """Wait until so many wait for a place."""
    with room._changed:
        return room._changed.wait_for(lambda: _waiting(room) == count, PATIENCE_S)


def _waiting(room: Room) -> int:
    return sum(len(turns[caller]) for turns in room._waiting.values() for caller in turns)


class Telling(Room):
    """Tells when somebody begins to wait."""

    def _fits(self, large: bool, size: int) -> bool:
        self._changed.notify_all()
        return super()._fits(large, size)


@pytest.mark.parametrize("places", [1, 2, 3, 8])
def test_small_ones_pass_the_large_ones(pool: ThreadPoolExecutor, places: int) -> None:
    room = Telling(places, 10 * BIG)
    large = [Visitor(pool, room, BIG) for _ in range(max(1, places // 2))]
    for one in large:
        one.entered()
    late = Visitor(pool, room, BIG)
    small = [Visitor(pool, room, SMALL) for _ in range(max(1, places - len(large)))]
    for one in small:
        one.entered()
    assert not late.inside.is_set()
    for one in small:
        one.leave()
    assert not late.inside.is_set()
    large[0].leave()
    late.entered().leave()
    for one in large[1:]:
        one.leave()
    assert room.held == 0


def test_large_ones_stay_within_the_bytes_but_for_a_single_one(pool: ThreadPoolExecutor) -> None:
    room = Telling(8, 2 * BIG)
    first = Visitor(pool, room, 5 * BIG).entered()
    second, third = Visitor(pool, room, BIG), Visitor(pool, room, BIG)
    assert waits(room, 2)
    assert room.held == 5 * BIG
    first.leave()
    second.entered()
    third.entered()
    assert room.held == 2 * BIG
    fourth = Visitor(pool, room, SMALL + 1)
    assert waits(room, 1)
    second.leave()
    fourth.entered().leave()
    third.leave()
    assert room.held == 0


def test_whoever_came_first_is_first(pool: ThreadPoolExecutor) -> None:
    room, entered = Telling(1, BIG), []
    first = Visitor(pool, room, BIG).entered()

    def visit(i: int) -> None:
        with room.place(BIG):
            entered.append(i)

    waiting = []
    for i in range(5):
        waiting.append(pool.submit(visit, i))
        assert waits(room, i + 1)
    first.leave()
    for one in waiting:
        one.result(PATIENCE_S)
    assert entered == list(range(5))


def test_callers_take_turns(pool: ThreadPoolExecutor) -> None:
    room, entered = Telling(1, BIG), []
    first = Visitor(pool, room, BIG).entered()

    def visit(caller: str) -> None:
        with room.place(BIG, caller=caller):
            entered.append(caller)

    waiting = []
    for i, caller in enumerate("aaaaabc"):
        waiting.append(pool.submit(visit, caller))
        assert waits(room, i + 1)
    first.leave()
    for one in waiting:
        one.result(PATIENCE_S)
    assert entered == list("abcaaaa")


def test_who_is_not_waited_for_any_more_takes_no_place() -> None:
    room = Room(1, BIG)

    def gone() -> None:
        raise InterruptedError

    for size in (1, BIG):
        with pytest.raises(InterruptedError), room.place(size, gone):
            pytest.fail("nobody wants it")
    assert room.held == 0
    with room.place(BIG):
        assert room.held == BIG

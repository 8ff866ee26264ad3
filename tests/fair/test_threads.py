"""Threads: callers take turns, none has all of them, and what nobody waits for any more is forgotten."""

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from service.fair.threads import Threads

PATIENCE_S = 60.0


@pytest.fixture
def threads() -> Iterator[Threads]:
    pool = Threads(4, "test")
    yield pool
    pool.shutdown()


class Held:
    """Tasks that hold their threads until they are let go."""

    def __init__(self, threads: Threads) -> None:
        self.threads, self.began, self.go = threads, threading.Semaphore(0), threading.Event()

    def __call__(self) -> bool:
        self.began.release()
        return self.go.wait(PATIENCE_S)

    def begin(self, caller: str, count: int, of: int) -> list:
        """Let a caller submit some, and wait until so many of them have begun."""
        found = [self.threads.submit_for(caller, self) for _ in range(count)]
        for _ in range(of):
            assert self.began.acquire(timeout=PATIENCE_S)
        return found


def test_one_caller_leaves_a_thread_for_the_next_one(threads: Threads) -> None:
    held = Held(threads)
    greedy = held.begin("greedy", 10, of=3)
    assert sum(future.running() for future in greedy) == 3
    assert threads.submit_for("other", lambda: 5).result(PATIENCE_S) == 5
    assert sum(future.running() for future in greedy) == 3
    held.go.set()
    assert all(future.result(PATIENCE_S) for future in greedy)


def test_who_has_the_fewest_threads_is_next() -> None:
    threads, order = Threads(4, "test", clock=lambda: 0.0), []
    held = Held(threads)
    begun = held.begin("", 4, of=4)  # for nobody in particular: all there are
    waiting = [threads.submit_for(caller, lambda c=caller: order.append(c)) for caller in "aaabbc"]
    alone = threading.Event()
    waiting.append(threads.submit_for("a", lambda: order.append("last") or alone.set()))
    with threads._changed:
        threads._busy.take("x", 3)  # one thread is left, so that what follows is one after the other
    held.go.set()
    assert alone.wait(PATIENCE_S)
    for future in begun + waiting:
        future.result(PATIENCE_S)
    with threads._changed:
        threads._busy.give("x", 3)
    assert sorted(order[:-1]) == sorted("aaabbc")
    assert sorted(order[:3]) == sorted([*order[3:5], "c"]) == list("abc")
    assert order[-2:] == ["a", "last"]
    threads.shutdown()


def test_errors_and_results_are_the_callers(threads: Threads) -> None:
    assert threads.submit(divmod, 7, 2).result(PATIENCE_S) == (3, 1)
    failed = threads.submit_for("a", lambda: 1 // 0)
    assert isinstance(failed.exception(PATIENCE_S), ZeroDivisionError)


def test_what_is_cancelled_before_it_begins_is_forgotten(threads: Threads) -> None:
    class Big:
        pass

    held, big = Held(threads), Big()
    begun = held.begin("a", 3, of=3)
    waiting = threads.submit_for("a", lambda kept=big: kept)
    seen = weakref.ref(big)
    del big
    assert waiting.cancel()
    gc.collect()
    assert seen() is None
    assert not threads._waiting
    held.go.set()
    assert all(future.result(PATIENCE_S) for future in begun)


@pytest.mark.parametrize("drop", [True, False])
def test_a_pool_that_is_shut_down_ends_what_it_has(drop: bool) -> None:
    threads = Threads(1, "test")
    held = Held(threads)
    (begun,) = held.begin("a", 1, of=1)
    waiting = [threads.submit_for(caller, lambda: 5) for caller in "ab"]
    held.go.set()
    threads.shutdown(cancel_futures=drop)
    assert begun.result(0)
    assert drop or [future.result(0) for future in waiting] == [5, 5]
    with pytest.raises(RuntimeError, match="shut down"):
        threads.submit_for("a", lambda: 5)


def test_threads_begin_as_they_are_told_and_end() -> None:
    begun = []
    threads = Threads(2, "told", lambda: begun.append(threading.current_thread()))
    threads.submit(int).result(PATIENCE_S)
    threads.shutdown()
    assert [thread.name for thread in begun] == ["told_0"]
    assert not begun[0].is_alive()


def test_a_caller_may_be_held_to_half(threads: Threads) -> None:
    pool = Threads(2, "test", times=1)
    held = Held(pool)
    greedy = held.begin("a", 2, of=1)
    assert pool.submit_for("b", lambda: 5).result(PATIENCE_S) == 5
    assert [future.running() for future in greedy] == [True, False]
    held.go.set()
    pool.shutdown()

"""One at a time, unless it takes longer than the others' patience."""

import threading

from service.engine.turns import Turns


def _others(turns: Turns, count: int) -> tuple[list[threading.Thread], list[int]]:
    """Start threads that take a turn each, and return them with those that are inside at a time."""
    at_once, inside, lock = [], set[int](), threading.Lock()

    def work(number: int) -> None:
        with turns.turn():
            with lock:
                inside.add(number)
                at_once.append(len(inside))
            with lock:
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    return threads, at_once


def _joined(threads: list[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(60)
    return not any(thread.is_alive() for thread in threads)


def test_one_at_a_time():
    turns = Turns(3600)
    with turns.turn():
        threads, at_once = _others(turns, 4)
        assert at_once == []
    assert _joined(threads)
    assert at_once == [1] * 4


def test_what_takes_longer_than_their_patience_is_overtaken():
    turns = Turns(0.01)
    with turns.turn():
        threads, at_once = _others(turns, 4)
        assert _joined(threads)
    assert len(at_once) == 4


def test_a_turn_that_never_ends_can_be_ended():
    turns, inside, go = Turns(3600), threading.Event(), threading.Event()

    def hang() -> None:
        with turns.turn():
            inside.set()
            assert go.wait(60)

    hanging = threading.Thread(target=hang)
    hanging.start()
    assert inside.wait(60)
    turns.end(hanging)
    with turns.turn():
        go.set()  # and its own end ends no later turn
        hanging.join(60)
        threads, at_once = _others(turns, 1)
        threads[0].join(0.01)
        assert at_once == []
    assert _joined(threads)


def test_a_turn_ends_with_an_error():
    turns = Turns(3600)
    try:
        with turns.turn():
            raise ZeroDivisionError
    except ZeroDivisionError:
        threads, _ = _others(turns, 1)
    assert _joined(threads)


def test_once_closed_nobody_waits():
    turns = Turns(3600)
    with turns.turn():
        threads, at_once = _others(turns, 2)
        turns.close()
        assert _joined(threads)
    assert len(at_once) == 2

"""Pictures in flight: how many, in which order, what an interrupt and a failure change, and what is told."""

import io
import signal
from concurrent.futures import Future
from pathlib import Path

import pytest

from service.bulk.listing import Listed
from service.bulk.loop import Done, Progress, Stop, Tally, of_error, run
from service.bulk.manifest import Manifest
from service.errors import Overloaded, UnsupportedMediaType

PICTURES = [Listed(Path(f"{i}.jpg"), f"{i}.jpg") for i in range(20)]


def ended(done):
    future: Future[Done] = Future()
    if isinstance(done, BaseException):
        future.set_exception(done)
    else:
        future.set_result(done)
    return future


def fine(picture):
    return Done({"sha256": picture.name}, {".png": b"x"})


@pytest.fixture
def manifest(tmp_path):
    with Manifest(tmp_path, {}) as found:
        yield found


def test_what_is_there_is_not_done_again(manifest):
    manifest.add("3.jpg", {}, {})
    started, said = [], io.StringIO()
    tally = run(PICTURES, manifest, lambda one: (started.append(one), ended(fine(one)))[1], 4, said=said)
    assert started == [one for one in PICTURES if one.name != "3.jpg"]
    assert tally == Tally(done=19, skipped=1)
    assert said.getvalue().startswith("20 pictures: 19 done, 0 failed, 1 there already; ")


def test_no_more_are_in_flight_than_may_be(manifest):
    waiting: list[tuple[Listed, Future[Done]]] = []
    most = []

    def start(picture):
        waiting.append((picture, Future()))
        most.append(len(waiting))
        if len(waiting) == 3 or picture is PICTURES[-1]:  # only now does any end
            for one, future in waiting:
                future.set_result(fine(one))
            found = waiting[-1][1]
            waiting.clear()
            return found
        return waiting[-1][1]

    assert run(PICTURES[:18], manifest, start, 3, said=io.StringIO()).done == 18
    assert max(most) == 3


def test_failures_are_told_and_do_not_end_it(manifest):
    said = io.StringIO()

    def start(picture):
        if picture.name == "2.jpg":
            return ended(of_error(UnsupportedMediaType("no picture"), "abc"))
        if picture.name == "5.jpg":
            return ended(of_error(Overloaded("later"), "abc"))
        return ended(fine(picture))

    tally = run(PICTURES, manifest, start, 4, said=said)
    assert (tally.done, tally.failed) == (18, 2)
    assert said.getvalue().splitlines()[:2] == ["2.jpg: no picture", "5.jpg: later"]
    assert manifest.failed == {"2.jpg": "no picture"}
    assert "5.jpg" not in manifest.done  # the next run tries it again


def test_failures_of_an_earlier_run_are_told_again(manifest):
    manifest.add("3.jpg", {"problem": {"detail": "no picture"}}, {})
    manifest.add("4.jpg", {}, {})
    said = io.StringIO()
    tally = run(PICTURES, manifest, lambda one: ended(fine(one)), 4, fail_fast=True, said=said)
    assert tally == Tally(done=18, failed=1, skipped=1)
    assert said.getvalue().startswith("3.jpg: no picture\n20 pictures: 18 done, 1 failed, 1 there already")


def test_fail_fast_begins_no_others(manifest):
    started = []

    def start(picture):
        started.append(picture)
        return ended(of_error(UnsupportedMediaType("no"), "") if picture.name == "3.jpg" else fine(picture))

    tally = run(PICTURES, manifest, start, 1, fail_fast=True, said=io.StringIO())
    assert (len(started), tally.failed) == (4, 1)


def test_what_is_wrong_for_all_ends_it(manifest):
    with pytest.raises(Stop, match="no such method"):
        run(PICTURES, manifest, lambda one: ended(Stop("no such method")), 4, said=io.StringIO())
    assert manifest.done == set()


def test_an_interrupt_lets_those_in_flight_end(manifest):
    started, before = [], signal.getsignal(signal.SIGINT)

    def start(picture):
        started.append(picture)
        if len(started) == 5:
            signal.raise_signal(signal.SIGINT)
        return ended(fine(picture))

    tally = run(PICTURES, manifest, start, 8, said=io.StringIO())
    assert tally.interrupted
    assert len(started) == tally.done == len(manifest.done) < 20
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_ends_at_once(manifest):
    def start(picture):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return Future()

    with pytest.raises(KeyboardInterrupt):
        run(PICTURES, manifest, start, 8, said=io.StringIO())


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_how_far_it_is():
    now, said = iter([0.0, 10.0, 10.0, 20.0]), Terminal()
    tally = Tally(skipped=80)
    progress = Progress(200, tally, said, lambda: next(now))
    tally.done, tally.failed = 19, 1
    assert progress.text == "100/200 pictures, 2/s, 0:00:50 left, 1 failed"
    progress.show()
    progress.failure("x.jpg: broken")
    progress.close()
    assert said.getvalue().endswith("x.jpg: broken\n200 pictures: 19 done, 1 failed, 80 there already; 1/s\n")

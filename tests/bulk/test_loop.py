"""Pictures in flight: how many, in which order, what an interrupt and a failure change, and what is told."""

import errno
import io
import os
import signal
from concurrent.futures import Future
from pathlib import Path

import pytest

from service.bulk.listing import Listed
from service.bulk.loop import Done, Progress, Stop, Tally, run
from service.bulk.manifest import Manifest

PICTURES = [Listed(Path(f"{i}.jpg"), f"{i}.jpg") for i in range(20)]


def ended(done):
    future: Future[Done] = Future()
    if isinstance(done, BaseException):
        future.set_exception(done)
    else:
        future.set_result(done)
    return future


def broken(detail):
    return Done({"problem": {"detail": detail}}, problem=detail)


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
            return ended(broken("no picture"))
        if picture.name == "5.jpg":
            return ended(Done(None, problem="later"))
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
        return ended(broken("no") if picture.name == "3.jpg" else fine(picture))

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

    tally = run(PICTURES, manifest, start, 8, said=(said := io.StringIO()))
    assert tally.interrupted
    assert "once more ends at once" in said.getvalue()
    assert len(started) == tally.done == len(manifest.done) < 20
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_ends_at_once(manifest):
    def start(picture):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return Future()

    with pytest.raises(KeyboardInterrupt):
        run(PICTURES, manifest, start, 8, said=io.StringIO())


@pytest.mark.parametrize("code", [errno.ENAMETOOLONG, errno.EISDIR, errno.EINVAL])
def test_an_answer_that_cannot_be_called_so_fails_alone(manifest, monkeypatch, code):
    add = manifest.add

    def adding(name, *given):
        if name == "3.jpg":
            raise OSError(code, os.strerror(code))
        add(name, *given)

    monkeypatch.setattr(manifest, "add", adding)
    said = io.StringIO()
    tally = run(PICTURES, manifest, lambda one: ended(fine(one)), 4, said=said)
    assert tally == Tally(done=19, failed=1)
    assert f"3.jpg: its answer cannot be written: {os.strerror(code)}" in said.getvalue()
    assert "3.jpg" not in manifest.done


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_where_nothing_can_be_written_any_more_it_ends(manifest, monkeypatch, code):
    def adding(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(manifest, "add", adding)
    with pytest.raises(OSError, match=os.strerror(code)):
        run(PICTURES, manifest, lambda one: ended(fine(one)), 4, said=io.StringIO())


def test_names_change_nothing_on_a_terminal():
    said = io.StringIO()
    Progress(1, Tally(), said).failure("a\x1b[31m\nb\udcff\u00e4.png: no")
    assert said.getvalue() == "a\\x1b[31m\\nb\\udcff\u00e4.png: no\n"


@pytest.mark.parametrize(("done", "said"), [(1, "0.1/s"), (57, "5.7/s"), (1234, "123/s"), (0, "0/s")])
def test_rates_are_numbers_as_people_write_them(done, said):
    progress = Progress(5000, tally := Tally(), io.StringIO(), iter([0.0, 10.0]).__next__)
    tally.done = done
    progress.close()
    assert progress.said.getvalue().endswith(f"; {said}\n")


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

"""Other processes decode and draw to the same bytes, may end at any moment, and leave nothing."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.codec import channel, child, processes
from service.codec.channel import Channel
from service.codec.inside import Canvas, Codec, Inside
from service.codec.processes import Processes
from service.errors import Cancelled, CodecUnavailable, InvalidParameter, ServiceError, UnprocessableImage
from service.images import Picture
from service.images.transform import Floats
from service.rendering import OutputOptions, encoders
from tests.codec.pictures import FILES, LARGE, LIMITS, RGB, TRANSFORMS, heats

INSIDE = Inside(LIMITS, 1)
HEAT = heats()[0]
pytestmark = pytest.mark.skipif(not hasattr(os, "pwrite"), reason="such systems hand no files on to a process")


def nothing() -> None:
    """Nobody has gone."""


class Told:
    """What is heard of processes."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, float]] = []
        self.ends: list[str] = []


def started(**limits: Any) -> tuple[Processes, Told]:
    told = Told()
    found = Processes(
        replace(LIMITS, **limits), 1, 1, observe=lambda *job: told.jobs.append(job), ended=told.ends.append
    )
    return found, told


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Processes, Told]]:
    found = started()
    yield found
    found[0].close()


@pytest.fixture
def codec(running: tuple[Processes, Told]) -> Iterator[Processes]:
    yield running[0]
    assert (running[0].room.held, set(running[0].room._inside.values())) == (0, {0})
    assert running[0]._free.qsize() == 1


def seen(codec: Codec, name: str = "jpeg") -> tuple[Picture, Floats]:
    return codec.see(FILES[name], RGB, nothing)


def drawn(codec: Codec, picture: Picture | None, **output: Any) -> Any:
    file = FILES["jpeg"] if output.get("size") == "original" else None
    with codec.drawing(Canvas(picture, file, RGB), nothing) as draw:
        return [draw(heat, OutputOptions(**output), "asked", encoders.png) for heat in heats()[: 2 if file else 5]]


# Equal


@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_is_seen_is_the_same(codec: Processes, name: str) -> None:
    for file in FILES.values():
        (picture, x), (expected, true) = (one.see(file, TRANSFORMS[name], nothing) for one in (codec, INSIDE))
        np.testing.assert_array_equal(x, true)
        assert x.flags.writeable  # PyTorch takes no other
        assert picture.seen.tobytes() == expected.seen.tobytes()
        assert replace(picture, seen=expected.seen) == expected


@pytest.mark.parametrize("encode", [encoders.png, encoders.jpeg, encoders.webp])
@pytest.mark.parametrize("pictures", ["asked", "best"])
@pytest.mark.parametrize("size", ["input", "original"])
def test_what_is_drawn_is_the_same(codec: Processes, encode: Any, pictures: Any, size: Any) -> None:
    picture, _ = seen(INSIDE)
    file = FILES["jpeg"] if size == "original" else None
    for on in (picture, None):
        some = [heat for heat in heats() if on is not None or heat.kind in ("grid", "rgb", "picture")]
        output, found = OutputOptions(size=size, opacity=0.4, colormap="magma"), []
        for one in (codec, INSIDE):
            with one.drawing(Canvas(on, file if on is not None else None, RGB), nothing) as draw:
                found.append([draw(heat, output, pictures, encode) for heat in some])
        assert found[0] == found[1]
        assert any(files != (None, None) for files in found[0])


@pytest.mark.parametrize("data", [b"", b"no picture", FILES["jpeg"][:900], FILES["transparent"][:-40]])
def test_what_is_wrong_is_the_same(codec: Processes, data: bytes) -> None:
    raised = []
    for one in (codec, INSIDE):
        with pytest.raises(ServiceError) as caught:
            one.see(data, RGB, nothing)
        raised.append((type(caught.value), caught.value.detail, caught.value.errors))
    assert raised[0] == raised[1]


def test_a_file_that_cannot_be_is_refused_with_its_field(codec: Processes) -> None:
    grid = replace(heats()[2], array=np.zeros((1, 2, 70_000), np.float32))
    with codec.drawing(Canvas(None, None, RGB), nothing) as draw, pytest.raises(InvalidParameter) as caught:
        draw(grid, OutputOptions(), "best", encoders.jpeg)
    assert caught.value.errors[0].pointer == "/output"


def test_a_large_picture_waits_for_room(codec: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    held, file = [], LARGE.getvalue()
    place = codec.room.place
    monkeypatch.setattr(codec.room, "place", lambda size, *whose: held.append(size) or place(size, *whose))
    (picture, x), (_, true) = (one.see(file, RGB, nothing) for one in (codec, INSIDE))
    np.testing.assert_array_equal(x, true)
    with codec.drawing(Canvas(picture, file, RGB), nothing) as draw:
        whole = draw(HEAT, OutputOptions(size="original"), "best", encoders.jpeg)
    assert held == [2000 * 1500 * processes.DECODING, 2000 * 1500 * 24]
    with INSIDE.drawing(Canvas(picture, file, RGB), nothing) as draw:
        assert whole == draw(HEAT, OutputOptions(size="original"), "best", encoders.jpeg)
    seen(codec)
    assert len(held) == 2  # small ones find their places without


def test_who_has_gone_is_not_worked_for(codec: Processes, running: tuple[Processes, Told]) -> None:
    def gone() -> None:
        raise Cancelled("the caller has gone")

    before = len(running[1].jobs)
    with pytest.raises(Cancelled):
        codec.see(FILES["jpeg"], RGB, gone)
    with pytest.raises(Cancelled), codec.drawing(Canvas(None, None, RGB), gone):
        pytest.fail("it was drawn")
    assert len(running[1].jobs) == before


def test_an_encoder_that_no_other_process_knows_is_no_hindrance(codec: Processes) -> None:
    with codec.drawing(Canvas(seen(INSIDE)[0], None, RGB), nothing) as draw:
        assert draw(HEAT, OutputOptions(), "best", lambda drawing: b"mine") == (None, b"mine")


def test_a_defect_there_is_a_defect_here(codec: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "name_of", lambda encode: "none of them")
    with codec.drawing(Canvas(None, None, RGB), nothing) as draw, pytest.raises(RuntimeError, match="KeyError"):
        draw(heats()[2], OutputOptions(), "best", encoders.png)


@pytest.mark.parametrize(("job", "kind"), [("see", UnprocessableImage), ("draw", InvalidParameter)])
def test_a_job_that_finds_no_memory_is_told_so(codec: Processes, job: str, kind: type[ServiceError]) -> None:
    with pytest.raises(kind, match="more memory than a codec process may have; "):
        codec._account(job, {"cpu_s": 0.0, "memory": True})


def test_jobs_are_accounted_for(codec: Processes, running: tuple[Processes, Told]) -> None:
    running[1].jobs.clear()
    drawn(codec, seen(codec)[0])
    assert [job for job, _ in running[1].jobs] == ["see"] + ["draw"] * 5
    assert all(0 <= cpu_s < 60 for _, cpu_s in running[1].jobs)


# Ended


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[signal.Signals]:
    """Let as many jobs as there are signals in the list be ended by them, once they are begun."""
    left: list[signal.Signals] = []
    send = Channel.send

    def ending(self: Channel, message: dict[str, Any], parts: Any = ()) -> None:
        (process,) = (one for one in started_ones if one.channel is self)
        sent = left.pop(0) if left and "job" in message else None
        if sent is not None:
            os.kill(process.pid, signal.SIGSTOP)  # it hears what follows, and does nothing about it
        send(self, message, parts)
        if sent is not None:
            os.kill(process.pid, sent)
            os.kill(process.pid, signal.SIGCONT)

    started_ones: list[child.Process] = []

    class Kept(child.Process):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            started_ones.append(self)

    monkeypatch.setattr(processes, "Process", Kept)
    monkeypatch.setattr(Channel, "send", ending)
    return left


@pytest.fixture
def own(ends: list[signal.Signals]) -> Iterator[tuple[Processes, Told]]:
    """Processes that a test may end."""
    found = started()
    yield found
    found[0].close()
    assert found[0].pids == []


def test_what_is_killed_in_a_job_is_tried_once_again(ends: list[signal.Signals], own: tuple[Processes, Told]) -> None:
    codec, told = own
    (first,) = codec.pids
    ends.append(signal.SIGKILL)
    picture, x = seen(codec)
    np.testing.assert_array_equal(x, seen(INSIDE)[1])
    (second,) = codec.pids
    assert first != second
    ends.append(signal.SIGSEGV)
    assert drawn(codec, picture, size="original") == drawn(INSIDE, picture, size="original")
    assert codec.pids != [second]
    assert told.ends == ["killed", "crash"]


def test_what_is_ended_twice_is_a_true_error(ends: list[signal.Signals], own: tuple[Processes, Told]) -> None:
    codec, told = own
    picture, _ = seen(INSIDE)
    ends += [signal.SIGKILL, signal.SIGKILL]
    with pytest.raises(CodecUnavailable, match=r"decode the picture has ended twice \(SIGKILL\)"):
        seen(codec)
    assert told.ends == ["killed"] * 2
    np.testing.assert_array_equal(seen(codec)[1], seen(INSIDE)[1])  # the next one is served
    assert drawn(codec, picture) == drawn(INSIDE, picture)


def test_a_decoder_that_crashes_is_the_pictures_fault() -> None:
    lost = child.Lost("crash", "SIGSEGV")
    assert isinstance(processes._true(lost, LIMITS, "decode"), UnprocessableImage)
    assert isinstance(processes._true(lost, LIMITS, "draw"), CodecUnavailable)


@pytest.mark.parametrize("sent", [signal.SIGPROF, None])
def test_what_takes_too_long_is_not_tried_again(
    ends: list[signal.Signals], own: tuple[Processes, Told], sent: signal.Signals | None
) -> None:
    """By its own clock, or by ours where that does not run."""
    codec, told = own
    picture, _ = seen(codec)
    (process,) = (seat.process for seat in codec._seats)
    if sent is None:
        os.kill(process.pid, signal.SIGSTOP)
        process._patience_s = 0.01
    else:
        ends.append(sent)
    with pytest.raises(UnprocessableImage, match="more than 60 s of processor time; save it again"):
        seen(codec)
    assert told.ends == ["time"]
    ends.append(signal.SIGPROF)
    with pytest.raises(InvalidParameter, match="to draw the answer takes more than") as caught:
        drawn(codec, picture)
    assert caught.value.errors[0].pointer == "/output"


def test_who_has_gone_is_not_tried_again_for(ends: list[signal.Signals], own: tuple[Processes, Told]) -> None:
    checks = iter([None, Cancelled("the caller has gone")])

    def check() -> None:
        if (error := next(checks)) is not None:
            raise error

    ends.append(signal.SIGKILL)
    with pytest.raises(Cancelled):
        own[0].see(FILES["jpeg"], RGB, check)


def test_what_ended_while_it_rested_is_replaced(own: tuple[Processes, Told]) -> None:
    codec, told = own
    (process,) = (seat.process for seat in codec._seats)
    process._child.kill()
    process._child.wait()
    np.testing.assert_array_equal(seen(codec)[1], seen(INSIDE)[1])
    assert told.ends == []


def test_signals_to_all_of_a_group_are_the_servers(codec: Processes) -> None:
    seen(codec)
    before = codec.pids
    for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(before[0], sent)
    seen(codec)
    assert codec.pids == before


# Not there


@pytest.mark.parametrize("missing", ["processes", "memory", "connection", "modules"])
def test_without_a_process_the_work_is_done_here(missing: str, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    if missing == "modules":
        monkeypatch.setattr(child, "_command", lambda *_: [sys.executable, "-S", "-c", "raise SystemExit(3)"])
    else:
        place = {"processes": (child.subprocess, "Popen"), "memory": (child, "shared_memory")}
        monkeypatch.setattr(*place.get(missing, (child.socket, "socketpair")), fail)
    monkeypatch.setattr(processes, "_REST_S", 3600.0)
    codec, told = started()
    for _ in range(2):
        picture, x = seen(codec)
        np.testing.assert_array_equal(x, seen(INSIDE)[1])
    assert drawn(codec, picture) == drawn(INSIDE, picture)
    assert told.ends == ["absent"] * 7
    assert sum("no codec process" in one.message for one in caplog.records) == 1  # and not each time
    codec.close()


@pytest.mark.parametrize("where", ["here", "there"])
def test_without_room_in_shared_memory_the_work_is_done_here(
    codec: Processes, running: tuple[Processes, Told], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    if where == "here":
        monkeypatch.setattr(channel.os, "pwrite", full)
    else:
        ask = child.Process.ask
        monkeypatch.setattr(child.Process, "ask", lambda *given: ask(*given) | {"no room": True})
    picture, x = seen(codec)
    np.testing.assert_array_equal(x, seen(INSIDE)[1])
    assert drawn(codec, picture) == drawn(INSIDE, picture)
    monkeypatch.undo()
    codec._absent_until = 0.0
    running[1].ends.clear()
    np.testing.assert_array_equal(seen(codec)[1], x)
    assert running[1].ends == []


def test_after_the_end_nothing_is_started() -> None:
    codec, told = started()
    seen(codec)
    pids = codec.pids
    codec.close()
    assert codec.pids == []
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    seen(codec)
    assert (codec.pids, told.ends) == ([], ["absent"])


def test_a_server_that_is_killed_leaves_no_process() -> None:
    """They hold its standard error open as long as they are there: it ends when they have."""
    program = (
        "import os; from service.codec.inside import Limits; from service.codec.processes import Processes\n"
        "from service.images import Transform; from importlib.resources import files\n"
        "photo = (files('service') / 'photographs' / 'chelsea.jpg').read_bytes()\n"
        "codec = Processes(Limits(2**24, 2**24, 2**24, 9.0), 2, 1)\n"
        "codec.see(photo, Transform(32, (32, 32), (0.5,), (0.5,)), lambda: None)\n"
        "os.kill(os.getpid(), 9)"
    )
    found = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, timeout=120, check=False)
    assert (found.returncode, found.stderr) == (-9, b"")


def test_many_at_once_take_turns(codec: Processes) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(seen(codec)[1])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(x, found[0]) for x in found)
    assert len(found) == 6

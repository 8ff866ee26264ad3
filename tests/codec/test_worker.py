"""The other process: light, bounded, and honest about what it cannot do."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from service.codec import worker
from service.codec.channel import Channel, NoRoom, shared_memory
from service.codec.worker import Desk
from tests.codec.pictures import FILES, LARGE, LIMITS, RGB

SEE = {"job": "see", "transform": RGB.as_json(), "large": False}


def run(program: str) -> subprocess.CompletedProcess[str]:
    begin = "import sys; from service.codec import worker; from service.codec.inside import Limits; "
    command = [sys.executable, "-c", begin + program]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_it_does_without_pytorch_and_the_web() -> None:
    found = run("print(sorted({'torch', 'torchvision', 'fastapi', 'uvicorn', 'httpx'} & set(sys.modules)))")
    assert (found.stdout, found.stderr) == ("[]\n", "")


def test_a_job_that_hangs_is_ended() -> None:
    program = "worker._PATIENCE = 1000\nwith worker._bounded(0.05):\n    while True: pass"
    assert run(f"\n{program}").returncode == -signal.SIGPROF


def test_a_job_that_sleeps_is_ended() -> None:
    program = "import threading\nwith worker._bounded(0.02):\n    threading.Event().wait(60)"
    assert run(f"\n{program}").returncode == -signal.SIGALRM


def test_only_python_writes_to_the_servers_log() -> None:
    program = "import os; worker.keep_apart(); os.write(2, b'a line of a decoder'); print('told', file=sys.stderr)"
    assert run(program).stderr == "told\n"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not count such memory")
def test_it_takes_no_more_memory_than_pictures_may() -> None:
    program = (
        "worker.settle(Limits(1, 1, 1, 1.0)); small = bytearray(2**24)\n"
        "try:\n    bytearray(worker._LIBRARIES + 2**24)\nexcept MemoryError:\n    print('told')"
    )
    assert run(program).stdout == "told\n"


@pytest.fixture
def desk() -> Iterator[Channel]:
    """The other end of a desk that works in a thread of this process."""
    ours, theirs = socket.socketpair()
    memory = shared_memory()
    here, there = Channel(ours, memory), Channel(theirs, os.dup(memory))
    thread = threading.Thread(target=Desk(there, replace(LIMITS, max_pixels=10**7)).serve)
    thread.start()
    assert here.receive(60)["ready"] is True
    yield here
    here.close()
    thread.join()  # hanging up is what ends it
    there.close()


def test_a_large_picture_is_only_decoded_when_it_may_be(desk: Channel) -> None:
    desk.send(SEE, [LARGE.getvalue()])
    assert desk.receive(60)["large"] == 2000 * 1500
    desk.send(SEE | {"large": True}, [LARGE.getvalue()])
    assert desk.receive(60)["size"] == [2000, 1500]


def test_what_is_wrong_is_told_by_its_name(desk: Channel) -> None:
    desk.send(SEE, [b"no picture"])
    said = desk.receive(60)
    assert (said["error"], said["errors"], said["parts"]) == ("UnsupportedMediaType", [], [])
    assert "not an image of an accepted type" in said["detail"]
    desk.send(SEE | {"transform": {}}, [b"no picture"])
    assert "TypeError" in desk.receive(60)["failed"]


@pytest.mark.parametrize(("error", "said"), [(MemoryError(), "memory"), (NoRoom("full"), "failed")])
def test_what_fails_is_told(desk: Channel, error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(worker, "decoded", fail)
    desk.send(SEE, [FILES["jpeg"]])
    assert desk.receive(60)[said]


def test_an_answer_without_room_is_told(desk: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    send = Channel.send

    def full(self: Channel, message: dict[str, Any], parts: Any = ()) -> None:
        if "cpu_s" in message and parts:
            raise NoRoom("full")
        send(self, message, parts)

    monkeypatch.setattr(Channel, "send", full)
    desk.send(SEE, [FILES["jpeg"]])
    assert desk.receive(60)["no room"] is True

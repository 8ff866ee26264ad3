"""What two ends say to each other arrives whole, and leaves nothing behind."""

import os
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from service.codec import channel as module
from service.codec.channel import Channel, Ended, NoRoom, shared_memory


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = socket.socketpair()
    memory = shared_memory()
    found = Channel(one, memory), Channel(other, os.dup(memory))
    yield found
    for end in found:
        end.close()


def test_messages_and_parts_arrive(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    values = np.random.default_rng(0).random((1, 3, 40, 50)).astype(np.float32)
    here.send({"job": "see"}, [b"a file", b"", values.data.cast("B")])
    said = there.receive(60)
    assert said["job"] == "see"
    assert (there.part(said, 0), there.part(said, 1)) == (b"a file", b"")
    np.testing.assert_array_equal(there.floats(said, 2, values.shape), values)
    there.trim(said)
    there.send({"done": True})
    assert here.receive(60) == {"done": True, "parts": []}


def test_two_messages_at_once_are_two(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    here.send({"number": 1})
    here.send({"number": 2})
    assert [there.receive(60)["number"] for _ in range(2)] == [1, 2]


def test_a_long_message_is_put_together(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    text = "x" * 1_000_000
    sending = threading.Thread(target=here.send, args=({"text": text},))
    sending.start()
    assert there.receive(60)["text"] == text
    sending.join()


def test_large_memory_is_given_back(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    for size, left in ((5 * 2**20, 0), (2**20, 2**20)):
        here.send({}, [bytes(size)])
        said = there.receive(60)
        assert there.part(said, 0) == bytes(size)
        there.trim(said)
        assert os.fstat(here._memory).st_size == left


def test_memory_has_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Nor has what stands for it on another system; both are gone with their last descriptor."""
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    for there in (True, False):
        if not there:
            monkeypatch.delattr(module.os, "memfd_create", raising=False)
        memory = shared_memory()
        assert os.pwrite(memory, b"kept", 0) == 4
        assert os.pread(memory, 10, 0) == b"kept"
        assert os.fstat(memory).st_nlink == 0
        os.close(memory)
        assert not list(tmp_path.iterdir())


def test_where_a_system_reads_into_no_memory_it_is_copied(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module.os, "preadv", raising=False)
    here, there = ends
    here.send({}, [b"a file"])
    assert there.part(there.receive(60), 0) == b"a file"


def test_an_end_that_is_closed_is_told(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    here._connection.close()
    with pytest.raises(Ended):
        there.receive(60)
    with pytest.raises(Ended):
        there.send({})


def test_silence_is_told(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(TimeoutError):
        ends[0].receive(0.001)


def test_a_part_that_is_shorter_or_larger_than_it_was_said_to_be_is_no_answer(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    here.send({}, [bytes(8)])
    said = there.receive(60)
    with pytest.raises(Ended):
        there.part(said | {"parts": [9]}, 0)
    with pytest.raises(Ended):
        there.floats(said, 0, (3,))


def test_memory_that_is_full_is_told_and_left_empty(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = ends
    write = os.pwrite

    def full(descriptor: int, data: memoryview, at: int) -> int:
        if at >= 4:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:4], at)

    monkeypatch.setattr(module.os, "pwrite", full)
    with pytest.raises(NoRoom, match="No space"):
        here.send({"job": "see"}, [b"a file"])
    monkeypatch.undo()
    assert os.fstat(here._memory).st_size == 0
    here.send({"job": "again"}, [b"a file"])
    assert there.receive(60)["job"] == "again"

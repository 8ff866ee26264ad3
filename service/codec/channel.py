"""What two processes say to each other: a short message over a socket, and large parts in memory that both share.

The memory has no name. It is reached by a file descriptor alone, and gone with the last process that has it, however
that ends; and it is read and written by calls that say so when there is no room, where a mapping would end the process
with a signal. On Linux it is not in `/dev/shm`, whose size containers bound.
"""

import os
import socket
import struct
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

Part = bytes | memoryview
_KEPT = 4 * 2**20  # bytes of shared memory that stay between two messages
_LENGTH = struct.Struct("<I")


class Ended(Exception):
    """The other process has ended, or hung up."""


class NoRoom(Exception):
    """The shared memory cannot hold what was to be sent."""


def shared_memory() -> int:
    """Return a descriptor of memory that processes may share; it has no name, and does not outlive them.

    Raises:
        OSError: there is none to be had.
    """
    try:
        return os.memfd_create("heatlens-codec")
    except (AttributeError, OSError):  # another system than Linux, or a sandbox without the call
        with tempfile.TemporaryFile(prefix="heatlens-") as file:
            return os.dup(file.fileno())


class Channel:
    """One end of it. Both ends take turns: what is shared belongs to whoever was spoken to last."""

    def __init__(self, connection: socket.socket, memory: int) -> None:
        self._connection, self._memory = connection, memory
        self._heard = b""  # and not understood yet

    def send(self, message: dict[str, Any], parts: Sequence[Part] = ()) -> None:
        """Say something, with large parts.

        Raises:
            NoRoom: the parts do not fit; nothing was said.
            Ended: nobody is there.
        """
        if self._memory < 0:
            raise Ended
        at = 0
        try:
            for part in parts:
                at = self._put(part, at)
        except OSError as error:
            self.trim()
            raise NoRoom(str(error)) from None
        data = orjson.dumps(message | {"parts": [len(part) for part in parts]})
        try:
            self._connection.sendall(_LENGTH.pack(len(data)) + data)
        except OSError:
            raise Ended from None

    def _put(self, part: Part, at: int) -> int:
        left = memoryview(part)
        while left:
            written = os.pwrite(self._memory, left, at)
            left, at = left[written:], at + written
        return at

    def receive(self, patience_s: float | None = None) -> dict[str, Any]:
        """Wait for a message.

        Raises:
            TimeoutError: none came in time.
            Ended: nobody is there any more.
        """
        self._connection.settimeout(patience_s)
        while (end := _end(self._heard)) is None:
            try:
                more = self._connection.recv(2**16)
            except TimeoutError:
                raise
            except OSError:
                raise Ended from None
            if not more:
                raise Ended
            self._heard += more
        data, self._heard = self._heard[_LENGTH.size : end], self._heard[end:]
        message: dict[str, Any] = orjson.loads(data)
        return message

    def part(self, message: dict[str, Any], number: int) -> bytes:
        """Return the so-manieth part of a message, from 0 on."""
        values = bytearray(message["parts"][number])
        self._read(memoryview(values), message, number)
        return bytes(values)

    def floats(self, message: dict[str, Any], number: int, shape: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return a part of a message as an array of its own."""
        values = np.empty(shape, np.float32)
        if values.nbytes != message["parts"][number]:
            raise Ended  # not what was agreed on: nobody is there who could be believed
        self._read(values.data.cast("B"), message, number)
        return values

    def _read(self, left: memoryview, message: dict[str, Any], number: int) -> None:
        at = sum(message["parts"][:number])
        while left:
            count = _read_at(self._memory, left, at)
            if not count:
                raise Ended  # it is shorter than it was said to be
            left, at = left[count:], at + count

    def trim(self, message: dict[str, Any] | None = None) -> None:
        """Give large memory back once a message has been read."""
        if message is None or sum(message["parts"]) > _KEPT:
            os.ftruncate(self._memory, 0)

    def close(self) -> None:
        """Hang up, and let go of the memory."""
        self._connection.close()
        memory, self._memory = self._memory, -1  # another file may have its number at once
        if memory >= 0:
            os.close(memory)


def _end(heard: bytes) -> int | None:
    """Return where the first message ends; None where it is not whole yet."""
    if len(heard) < _LENGTH.size:
        return None
    end = _LENGTH.size + int(_LENGTH.unpack_from(heard)[0])
    return end if end <= len(heard) else None


def _read_at(descriptor: int, left: memoryview, at: int) -> int:
    """Read a file's bytes from a position on into memory that is there, and return how many."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [left], at)
    data = os.pread(descriptor, len(left), at)
    left[: len(data)] = data
    return len(data)

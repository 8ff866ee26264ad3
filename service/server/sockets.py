"""What the system holds of a connection between us and its client."""

import asyncio
import socket
import struct
from contextlib import suppress

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ
except ImportError:  # Windows does not tell
    ioctl = None  # type: ignore[assignment]

READ = 16 * 1024
"""Bytes that are read at a time, so that no connection takes more of a turn of the loop than another one."""

# Bytes of answers that the system takes off our hands; Linux reserves twice as many, and would else take 4 MiB of each.
_SEND = 128 * 1024


def bound(transport: asyncio.Transport) -> None:
    """Bound what is read from a connection at a time, and what the system holds of what is written to it."""
    if hasattr(transport, "max_size"):  # asyncio's own; another loop's transport reads as it likes
        transport.max_size = READ
    found = transport.get_extra_info("socket")
    if found is not None:
        with suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND)


def forget(transport: asyncio.Transport) -> None:
    """Let an ended transport be freed by counting references: asyncio's own holds methods of itself.

    Else whatever belonged to a connection would wait for Python's search of everything that lives, which takes the
    longer the more has been and gone.
    """
    held = getattr(transport, "__dict__", {})
    for name in [name for name, value in held.items() if getattr(value, "__self__", None) is transport]:
        del held[name]


def untaken(transport: asyncio.Transport) -> int:
    """Return how many bytes of what was written the other end has not got.

    Where the system does not tell of its own part, that of this process alone.
    """
    held, found = b"\0" * 4, transport.get_extra_info("socket")
    if ioctl is not None and found is not None and found.fileno() >= 0:
        with suppress(OSError):
            held = ioctl(found.fileno(), TIOCOUTQ, held)
    size: int = struct.unpack("i", held)[0]
    return size + transport.get_write_buffer_size()

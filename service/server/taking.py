"""What clients send, looked at in turns: however many send something at once, nobody waits for more than a few of them.

An event loop reads from every connection that has something in each of its rounds. What a thousand of them send at once
would be one round, and meanwhile nobody is answered.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.server.gate import Gate

# Heads and pieces of bodies that are looked at in a round of the loop. Most take a tenth of a millisecond, and no one
# takes more than a few; fewer would keep who sends a picture waiting beside those who send all the time.
_HEADS, _PIECES = 48, 128


class Doors:
    """Where all connections wait to be looked at."""

    def __init__(self) -> None:
        self.heads, self.bodies = Gate(_HEADS), Gate(_PIECES)


class Taking(H11Protocol):
    """A connection whose bytes are looked at in its caller's turn. Until then, no more of them are read.

    `holder` is whom it counts for.
    """

    holder: Any = ""

    def __init__(self, doors: Doors, **uvicorns: Any) -> None:
        """Take where it waits."""
        super().__init__(**uvicorns)
        self._doors = doors
        self._come = b""  # and not looked at yet
        self._awaited: asyncio.Future[None] | None = None  # the turn to look at it
        self._resting: asyncio.TimerHandle | None = None  # until more is read

    def data_received(self, data: bytes) -> None:
        """Look at what has come, or wait for a turn to."""
        self._come += data
        if self._awaited is None:
            door = self._doors.heads if self.conn.their_state is h11.IDLE else self._doors.bodies
            self._awaited = door.enter(self.holder)
            if self._awaited is None:
                self._take_up()
                return
            self._awaited.add_done_callback(self._turned)
        self.transport.pause_reading()

    def take(self, data: bytes) -> float:
        """Look at what has come, and return for how many seconds no more is to be read."""
        super().data_received(data)
        return 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what was not looked at."""
        if self._awaited is not None:
            self._awaited.cancel()
        if self._resting is not None:
            self._resting.cancel()
        self._come = b""
        self._unset_keepalive_if_required()  # which uvicorn leaves to run after a reset, and it holds the connection
        super().connection_lost(exc)

    def _turned(self, turn: "asyncio.Future[None]") -> None:
        self._awaited = None
        if not turn.cancelled() and not self.transport.is_closing():
            self._take_up()
            if self._resting is None:
                self._go_on()

    def _take_up(self) -> None:
        data, self._come = self._come, b""
        pause_s = self.take(data)
        if pause_s and not self.transport.is_closing():
            self.transport.pause_reading()
            if self._resting is not None:
                self._resting.cancel()
            self._resting = self.loop.call_later(pause_s, self._go_on)

    def _go_on(self) -> None:
        """Read on, unless the application has more than it has taken."""
        self._resting = None
        if not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

"""Whose request begins next: callers take turns at the event loop, too, and none of them fills a whole round of it."""

import asyncio
from collections import deque
from collections.abc import Hashable

# Requests that begin in one round of the loop. Each takes a millisecond or two of it, and a client that only asks
# whether the server lives needs half a dozen rounds.
AT_ONCE = 2


class Gate:
    """Lets a few requests a round of the event loop begin, of each caller that waits in turn. For one thread.

    Where there is no crowd nobody waits: a round without work lasts microseconds.
    """

    def __init__(self, at_once: int = AT_ONCE, pace_s: float = 0.0) -> None:
        """Let so many begin in one round.

        Args:
            at_once: of all callers.
            pace_s: seconds from one round to the next, at least; 0: a round of the event loop is one.
        """
        self.at_once, self.pace_s = at_once, pace_s
        self._left = at_once  # of this round
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}  # by caller, the next one first
        self._turning = False

    def enter(self, caller: Hashable) -> "asyncio.Future[None] | None":
        """Ask for a turn.

        Returns:
            What is done when it has come, and cancelled by who does not want it any more; None: it is there.
        """
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning = True
            self._go_on(loop)
        if self._left and not self._waiting:
            self._left -= 1
            return None
        mine = loop.create_future()
        self._waiting.setdefault(caller, deque()).append(mine)
        return mine

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin a round: let in who is next, and those that come until it ends as far as there is room."""
        self._left = self.at_once
        while self._left and self._waiting:
            caller, own = next(iter(self._waiting.items()))
            del self._waiting[caller]  # to the end of the line
            one = own.popleft()
            if own:
                self._waiting[caller] = own
            if not one.done():  # who does not want a turn any more has none
                one.set_result(None)
                self._left -= 1
        self._turning = bool(self._waiting) or self._left < self.at_once
        if self._turning:
            self._go_on(loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.pace_s:
            loop.call_later(self.pace_s, self._turn, loop)
        else:
            loop.call_soon(self._turn, loop)

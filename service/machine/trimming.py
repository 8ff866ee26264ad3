"""Freed memory is given back while work goes on, where there is much of it."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

# Less is not worth giving back; how often is looked.
_STEP, _LOOK_S = 160 * 2**20, 0.2

# Memory that was given back and is needed again costs the kernel 0.6 s of clearing pages a gibibyte. Where the same
# comes back, this many seconds for each byte pass before it is given back again: a fiftieth of a core's time at most.
_REST_S = 50 * 0.6 / 2**30


def resident_bytes() -> int:
    """Return the memory of this process that is really there; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


class Trimming:
    """Gives freed memory back while work goes on, where much more was needed for a moment than is needed otherwise.

    Freed memory is kept for the next forward, which needs about as much. But large pictures and bodies come and go
    between what stays, and in the holes that they leave nothing large fits: so kept memory grows far beyond what was
    ever in use at a time.

    What is free when one looks may be what a forward has just left and the next one takes. Given back each time, it
    cost more than half of the forwards' own time again. So what was given back may come back for a while. More than
    a step is not waited for: a process under attack would only grow.
    """

    def __init__(
        self,
        release: Callable[[], None],
        step: int = _STEP,
        resident: Callable[[], int] = resident_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with what is there now.

        Args:
            release: gives back what is free.
            step: bytes by which the process may grow before it is looked what of that is free.
            resident: tells the bytes of the process.
            clock: seconds that never go back.
        """
        self._step, self._resident, self._release, self._clock = step, resident, release, clock
        self._least = resident()  # since memory was last given back
        self._given, self._until = 0, clock()  # back, last; when the same may come back

    def look(self) -> None:
        """Give memory back where the process has grown much; what is in use is what it may grow from next."""
        now = self._resident()
        self._least = min(self._least, now)
        expected = self._given if self._clock() < self._until else 0
        if now > self._least + self._step + expected:
            self._release()
            self._least = self._resident()
            given = max(0, now - self._least)
            self._given, self._until = min(given, self._step), self._clock() + _REST_S * given

    def run(self) -> None:
        """Look all the time."""
        rest = threading.Event()
        while not rest.wait(_LOOK_S):
            self.look()

"""Freed memory is given back while work goes on, where there is much of it."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

# More than forwards of a usual size need at a time, so that their memory stays; how often is looked.
_STEP, _LOOK_S = 160 * 2**20, 0.2


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
    """

    def __init__(
        self, release: Callable[[], None], step: int = _STEP, resident: Callable[[], int] = resident_bytes
    ) -> None:
        """Begin with what is there now.

        Args:
            release: gives back what is free.
            step: bytes by which the process may grow before it is looked what of that is free.
            resident: tells the bytes of the process.
        """
        self._step, self._resident, self._release = step, resident, release
        self._least = resident()  # since memory was last given back

    def look(self) -> None:
        """Give memory back where the process has grown much; what is in use is what it may grow from next."""
        now = self._resident()
        self._least = min(self._least, now)
        if now > self._least + self._step:
            self._release()
            self._least = self._resident()

    def run(self) -> None:
        """Look all the time."""
        rest = threading.Event()
        while not rest.wait(_LOOK_S):
            self.look()

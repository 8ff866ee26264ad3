"""Turns: one at a time does something, as long as it does not take long."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One thread at a time, unless it takes longer than the others' patience."""

    def __init__(self, patience_s: float) -> None:
        """Begin.

        Args:
            patience_s: how long each has for itself; then the next one begins beside it.
        """
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._alone: threading.Thread | None = None  # whose turn the others wait for
        self._began = 0.0
        self._closed = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and have it; once closed nobody waits."""
        mine = threading.current_thread()
        with self._changed:
            while self._alone is not None and not self._closed:
                if (left := self._began + self._patience_s - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            self._alone, self._began = mine, time.monotonic()
        try:
            yield
        finally:
            self.end(mine)

    def end(self, thread: threading.Thread) -> None:
        """End a thread's turn, if the others wait for it."""
        with self._changed:
            if self._alone is thread:  # else they wait for a later one
                self._alone = None
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

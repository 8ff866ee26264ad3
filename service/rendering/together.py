"""What several answers take together, as values and pictures: a request with many questions is bounded as any other."""

import threading


class Together:
    """What all answers to one request take: they are bounded as one is, wherever they are made at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned = self._values = self._pictures = self._pixels = 0

    def plan(self, values: int) -> int:
        """Return the raw values of all answers so far with those that one more may have."""
        with self._lock:
            self._planned += values
            return self._planned

    def add(self, values: int, pictures: int, pixels: int) -> tuple[int, int, int]:
        """Return what all answers so far have, with one more."""
        with self._lock:
            self._values += values
            self._pictures += pictures
            self._pixels += pixels
            return self._values, self._pictures, self._pixels

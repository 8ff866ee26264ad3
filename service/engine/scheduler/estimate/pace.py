"""How long a pass takes on the device, and how many a batch has."""

import math

from service.engine.scheduler.queue import QUANTUM


class Pace:
    """The time of a pass on the device, and the size of its batches, as measured of late."""

    def __init__(self) -> None:
        self._passes = self._seconds = self._largest = 0.0

    @property
    def pass_s(self) -> float:
        """Seconds a pass; 0 before any was measured."""
        return self._seconds / self._passes if self._passes else 0.0

    @property
    def batch(self) -> int:
        """Passes of a large batch: nobody has less of the device at a time."""
        return max(QUANTUM, math.ceil(self._largest))

    def count(self, passes: int, seconds: float) -> None:
        """Take note of the passes (0: none that count) and time of what the device has just done."""
        if passes:
            self._largest = max(float(passes), 0.99 * self._largest)
            self._passes = 0.95 * self._passes + passes
            self._seconds = 0.95 * self._seconds + seconds

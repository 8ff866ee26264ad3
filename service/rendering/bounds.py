"""The most that one request is answered with, be that in many answers: raw values, pictures, and their pixels."""

import threading
from dataclasses import dataclass

from service.errors import InvalidParameter


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


@dataclass(frozen=True)
class Bounds:
    """The most that the answer to one request may have: raw values, pictures, and pixels of all pictures together."""

    values: int
    pixels: int
    pictures: int = 256

    def plan(self, values: int, together: Together | None = None) -> None:
        """Raise `InvalidParameter` where an answer may have so many raw values that they are too many."""
        self._check_values(together.plan(values) if together is not None else values, together)

    def check(self, values: int, pictures: int, pixels: int, together: Together | None = None) -> None:
        """Raise `InvalidParameter` where an answer will be too large, with the others of the same request."""
        if together is not None:
            values, pictures, pixels = together.add(values, pictures, pixels)
        self._check_values(values, together)
        if pictures > self.pictures or pixels > self.pixels:
            raise InvalidParameter.at(
                "/output",
                f"the answer would have {pictures:,} pictures of {pixels:,} pixels together, and at most "
                f"{self.pictures:,} of {self.pixels:,} are drawn; ask for `size: input`, for `heatmap` or `overlay` "
                f"alone, or for fewer targets or channels{_less(together)}",
            )

    def _check_values(self, values: int, together: Together | None) -> None:
        if values > self.values:
            raise InvalidParameter.at(
                "/output/array",
                f"the answer would have {values:,} raw values, and at most {self.values:,} are sent; ask for fewer "
                f"layers or channels, or for `array: none`{_less(together)}",
            )


def _less(together: Together | None) -> str:
    return ", or for fewer pictures or methods in one request" if together is not None else ""

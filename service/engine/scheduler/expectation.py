"""How many passes requests turn out to need, of those that they may need at most."""

import math
import threading
from collections import OrderedDict
from collections.abc import Hashable

_KEPT = 1024  # kinds of requests that are remembered
_FADE = 0.9  # what the mean so far counts for, beside the next request


class Expectation:
    """The running mean of needed by possible passes, by kind of request. Any thread may ask.

    A layer of thousands of maps may have a few hundred that differ: let in by what they may need at most, most requests
    for them would be turned away from an idle device.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shares: OrderedDict[Hashable, float] = OrderedDict()

    def passes(self, kind: Hashable, most: int) -> int:
        """Return how many passes a request is expected to need, given how many it needs at most."""
        with self._lock:
            return max(1, math.ceil(most * self._shares.get(kind, 1.0)))

    def learn(self, kind: Hashable, most: int, needed: int) -> None:
        """Take note of a request that has been answered."""
        share = min(1.0, needed / most) if most else 1.0
        with self._lock:
            before = self._shares.pop(kind, share)
            self._shares[kind] = _FADE * before + (1 - _FADE) * share
            if len(self._shares) > _KEPT:
                self._shares.popitem(last=False)

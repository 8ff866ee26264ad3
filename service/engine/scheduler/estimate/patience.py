"""How long callers are ready to wait, by what they have sent of late."""

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

_KEPT_S = 10.0  # that a caller's patience is remembered
_READ_ONE_IN = 4  # of those that would be turned away unread
_CALLERS = 4096  # whose patience is remembered, at most


@dataclass
class _Caller:
    longest_s: float
    until: float
    refused: int = 0


class Patience:
    """How long each caller's requests of late were ready to wait; one of whom nothing is known waits for ever.

    A caller's most patient request stands for all others, so that a few with tiny deadlines shorten no other's time.
    One in so many that are turned away is read all the same, so that a caller who has become more patient is heard.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, _Caller] = OrderedDict()

    def longest_s(self, caller: Hashable, now: float) -> float:
        """Return the timeout of a caller's most patient request of late."""
        known = self._known.get(caller)
        return known.longest_s if known is not None and now < known.until else math.inf

    def count_read(self, caller: Hashable, timeout_s: float | None, now: float) -> None:
        """Take note of a request that was read."""
        timeout_s = math.inf if timeout_s is None else timeout_s
        known = self._known.get(caller)
        if known is None or now >= known.until or timeout_s >= known.longest_s:
            self._known[caller] = _Caller(timeout_s, now + _KEPT_S, known.refused if known is not None else 0)
            self._known.move_to_end(caller)
            if len(self._known) > _CALLERS:
                self._known.popitem(last=False)

    def count_refused(self, caller: Hashable) -> bool:
        """Take note of a request that would be turned away unread; return whether it should be read all the same."""
        if (known := self._known.get(caller)) is None:
            return False
        known.refused += 1
        return known.refused % _READ_ONE_IN == 0

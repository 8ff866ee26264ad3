"""How much one caller may hold of what there is only so much of."""

from collections import Counter
from collections.abc import Hashable


class Portions:
    """What callers hold of one thing: places, bytes, or requests.

    What is held cannot be taken back, so that something has to be left for who comes next. A caller may take more as
    long as it holds less than so many times what is free (Choudhury & Hahne 1998, "Dynamic queue length thresholds for
    shared-memory packet switches", section III). With three times that, one caller alone has up to 3/4 of all, two have
    3/7 each, and eight 3/25 each, with as much as a third of that still free. Who holds nothing may take whatever is.

    Callers that are false ("": all together, None: the server itself) have no bound of their own. Whoever has the
    portions has a lock.
    """

    def __init__(self, total: int, times: int = 3) -> None:
        """Begin with all of it free.

        Args:
            total: all there is.
            times: of what is free, that a caller may hold.
        """
        self.total, self.times = total, times
        self.held = 0
        self.by: Counter[Hashable] = Counter()

    @property
    def free(self) -> int:
        """What nobody holds; below 0 where more was taken than there is."""
        return self.total - self.held

    def fits(self, size: int = 1) -> bool:
        """Whether there is so much, for anybody."""
        return size <= self.free

    def within(self, caller: Hashable) -> bool:
        """Whether a caller may take more, as far as what it holds goes."""
        return not caller or self.by[caller] < max(1, self.times * self.free)

    def allows(self, caller: Hashable, size: int = 1) -> bool:
        """Whether a caller may take so much."""
        return self.fits(size) and self.within(caller)

    def take(self, caller: Hashable, size: int = 1) -> None:
        """Write down that a caller has taken so much, allowed or not."""
        self.held += size
        self.by[caller] += size
        self._tidy(caller)

    def give(self, caller: Hashable, size: int = 1) -> None:
        """Write down that a caller has given so much back."""
        self.held -= size
        self.by[caller] -= size
        self._tidy(caller)

    def _tidy(self, caller: Hashable) -> None:
        if not self.by[caller]:
            del self.by[caller]  # there may be ever new ones

"""Who waits in a line, by whom each counts for: the first of somebody's is found without going through all."""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Crowd(Generic[T]):
    """Members of holders, of each holder in the order in which they came."""

    def __init__(self) -> None:
        self._by: dict[Hashable, dict[T, None]] = {}

    @property
    def holders(self) -> Iterator[Hashable]:
        """Give those that have a member here, in the order in which they came."""
        return iter(self._by)

    def first(self, holder: Hashable) -> T:
        """Return the member of a holder that is there for the longest time.

        Raises:
            KeyError: the holder has none.
        """
        return next(iter(self._by[holder]))

    def add(self, holder: Hashable, one: T) -> None:
        """Take one in at the end; one that is there keeps its place."""
        self._by.setdefault(holder, {}).setdefault(one)

    def drop(self, holder: Hashable, one: T) -> None:
        """Let one go, if it is there."""
        own = self._by.get(holder, {})
        own.pop(one, None)
        if not own:
            self._by.pop(holder, None)

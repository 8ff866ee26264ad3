"""What waits, added up by who asked and for what: what a request is told does not cost as much as there is waiting."""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from service.engine.scheduler.run import Run

SMALL_PASSES = 64  # requests of no more are worked off in the order they came; larger ones share


@dataclass(slots=True)
class Group:
    """Requests of one caller, one priority and one kind, and the passes that are left of them.

    total: of all.
    lefts: of each.
    large: of each of those that share.
    """

    priority: int
    caller: Hashable
    kind: Hashable
    total: int = 0
    lefts: dict[Run, int] = field(default_factory=dict)
    large: dict[Run, int] = field(default_factory=dict)

    @property
    def small(self) -> int:
        """Passes of those that are worked off in the order they came."""
        return self.total - sum(self.large.values())

    def add(self, run: Run, left: int) -> None:
        """Count one."""
        self.total += left
        self.lefts[run] = left
        if run.admitted_passes > SMALL_PASSES:
            self.large[run] = left

    def remove(self, run: Run) -> None:
        """Count one no longer."""
        self.total -= self.lefts.pop(run)
        self.large.pop(run, None)


class Ledger:
    """Groups of requests. Passes that the device has done since are seen when it is brought `up_to_date`."""

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        """Begin with those that are there."""
        self._groups: dict[tuple[Hashable, ...], Group] = {}
        self._group_of: dict[Run, Group] = {}
        for run in runs:
            self.add(run)

    def __iter__(self) -> Iterator[Group]:
        """Yield all groups."""
        return iter(self._groups.values())

    def __len__(self) -> int:
        """Return how many requests there are."""
        return len(self._group_of)

    def __contains__(self, run: object) -> bool:
        """Whether a request is counted."""
        return run in self._group_of

    @property
    def runs(self) -> Iterable[Run]:
        """The requests."""
        return self._group_of.keys()

    @property
    def total(self) -> int:
        """Passes that are left of all."""
        return sum(group.total for group in self)

    @property
    def callers(self) -> set[Hashable]:
        """Whose requests there are."""
        return {group.caller for group in self}

    def of(self, caller: Hashable) -> tuple[int, int]:
        """Return the passes that are left of a caller's requests, and how many these are."""
        own = [group for group in self if group.caller == caller]
        return sum(group.total for group in own), sum(len(group.lefts) for group in own)

    def add(self, run: Run) -> None:
        """Count a request, whose priority, caller, kind and size stay as they are."""
        key = (run.priority, run.caller, run.kind)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(*key)
        group.add(run, run.left)
        self._group_of[run] = group

    def remove(self, run: Run) -> None:
        """Count a request no longer."""
        group = self._group_of.pop(run)
        group.remove(run)
        if not group.lefts:
            del self._groups[group.priority, group.caller, group.kind]

    def up_to_date(self) -> "Ledger":
        """Return the same requests with what is left of them now."""
        return Ledger(self._group_of)

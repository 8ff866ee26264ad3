"""Who is next: a ranking whose ranks may rise unseen, and turns by what each has had."""

import heapq
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

N = TypeVar("N", bound=Hashable)
B = TypeVar("B")

KEPT = 64  # names without work whose time is remembered, those that are furthest ahead


class Ranking(Generic[N]):
    """Members, the one of lowest rank first; of equal ranks the one that came first.

    A rank may rise at any time: it is looked up when its member would be first, so that nothing has to be told. A
    member whose rank falls has to leave and come again. All operations take logarithmic time, on average over many.
    """

    def __init__(self, rank: Callable[[N], Any]) -> None:
        self._rank = rank
        self._heap: list[tuple[Any, int]] = []
        # A heap cannot be searched: entries of members that have left stay behind, and name nobody.
        self._tokens: dict[N, int] = {}
        self._members: dict[int, N] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._tokens)

    def __contains__(self, member: object) -> bool:
        return member in self._tokens

    def __iter__(self) -> Iterator[N]:
        return iter(self._tokens)

    def token(self, member: N) -> int:
        """Return a number that is larger for those who came later."""
        return self._tokens[member]

    def add(self, member: N) -> None:
        """Let a member in; one that is there already stays where it is."""
        if member in self._tokens:
            return
        self._last += 1
        self._tokens[member] = self._last
        self._members[self._last] = member
        heapq.heappush(self._heap, (self._rank(member), self._last))

    def discard(self, member: N) -> None:
        """Let a member go; one that is not there does not matter."""
        token = self._tokens.pop(member, None)
        if token is None:
            return
        del self._members[token]
        if len(self._heap) > 2 * len(self._members) + 16:
            self._heap = [entry for entry in self._heap if entry[1] in self._members]
            heapq.heapify(self._heap)

    def first(self) -> N:
        """Return the member of lowest rank.

        Raises:
            IndexError: there are none.
        """
        if not self._settled():
            raise IndexError("a ranking without members has no first one")
        return self._members[self._heap[0][1]]

    def _settled(self) -> bool:
        """Bring the member of lowest rank to the top of the heap; return whether there is one."""
        while self._heap:
            known, token = self._heap[0]
            if token not in self._members:
                heapq.heappop(self._heap)
            elif known != (rank := self._rank(self._members[token])):
                heapq.heapreplace(self._heap, (rank, token))
            else:
                return True
        return False

    def ascending(self) -> Generator[N, None, None]:
        """Yield members by rank; nobody may come or go before the generator is closed."""
        taken: list[tuple[Any, int]] = []
        try:
            while self._settled():
                taken.append(heapq.heappop(self._heap))
                yield self._members[taken[-1][1]]
        finally:
            for entry in taken:
                heapq.heappush(self._heap, entry)


@dataclass(frozen=True)
class Standing:
    """What names have had at a moment.

    had: of each that is known; who comes after a while is taken to have had `start` at least.
    start: what a name is taken to have had that is not known.
    """

    had: Mapping[Any, float] = field(default_factory=dict)
    start: float = 0.0

    def of(self, name: Hashable) -> float:
        """Return what a name has had."""
        return self.had.get(name, self.start)


class _Account(Generic[B]):
    """What one name was charged, and what it holds."""

    def __init__(self, time: float, below: B) -> None:
        self.time, self.below = time, below


class Turns(Generic[N, B]):
    """Names that take turns by what they were charged: whoever has had least is next.

    Whoever comes, for the first time or again, has no credit for time spent idle: it starts with what the last one had
    had when its turn came, so that who asks little is next at once. But nobody starts further than a lead behind the
    virtual time of fair sharing, which is what each of those present would have had by now if all of them had always
    been served at once (Parekh & Gallager 1993, "A generalized processor sharing approach to flow control"). As that
    time goes on with every charge, ever new names cannot keep the others from their turns.

    The name None is never charged.
    """

    def __init__(self, below: Callable[[], B], lead: float) -> None:
        """Begin with nobody.

        Args:
            below: makes what a name holds, which is kept as long as its time is remembered.
            lead: most that a newcomer starts behind the virtual time, in the unit of charges.
        """
        self._below, self._lead = below, lead
        self._accounts: dict[N, _Account[B]] = {}
        self._present: Ranking[N] = Ranking(lambda name: self._accounts[name].time)
        self._idle: dict[N, None] = {}
        self._turn = self._virtual = 0.0

    def __len__(self) -> int:
        return len(self._present)

    def __iter__(self) -> Iterator[N]:
        """Iterate over the names that are present, in the order of coming."""
        return iter(self._present)

    def __getitem__(self, name: N) -> B:
        """Return what a name holds."""
        return self._account(name).below

    def first(self) -> N:
        """Return whose turn it is.

        Raises:
            IndexError: nobody is present.
        """
        return self._present.first()

    def begin(self, name: N | None = None) -> N:
        """Return whose turn it is, and begin it.

        Args:
            name: whose turn it is where others before it cannot take theirs; default: the first one's.

        Raises:
            IndexError: nobody is present.
        """
        found = self._present.first() if name is None else name
        self._turn = max(self._turn, self._accounts[found].time) if name is not None else self._accounts[found].time
        return found

    def place(self, name: N) -> tuple[float, int]:
        """Return what those who are present are ordered by, `first` having the lowest."""
        return self._accounts[name].time, self._present.token(name)

    def enter(self, name: N) -> None:
        """Let a name take part; one that does already stays where it is."""
        if name in self._present:
            return
        account = self._account(name)
        account.time = max(account.time, self._start) if name is not None else self._turn
        self._idle.pop(name, None)
        self._present.add(name)

    def leave(self, name: N) -> None:
        """Let a name take part no longer."""
        if name in self._present:
            self._present.discard(name)
            self._rest(name)

    def ascending(self) -> Generator[N, None, None]:
        """Yield the names that are present, whose turn it is first; nobody may come or go before it is closed."""
        return self._present.ascending()

    def standing(self) -> Standing:
        """Return what everybody has had, for others to look at."""
        start = self._start
        had = {
            name: account.time if name in self._present else max(account.time, start)
            for name, account in self._accounts.items()
        }
        return Standing(had, start)

    def charge(self, name: N, amount: float) -> None:
        """Write down what a name has had, whether it is still present or not."""
        if name is None:
            return
        self._account(name).time += amount
        sharing = len(self._present) - (None in self._present) + (name not in self._present)
        self._virtual += amount / sharing

    @property
    def _start(self) -> float:
        """What a newcomer is taken to have had."""
        return max(self._turn, self._virtual - self._lead)

    def _account(self, name: N) -> _Account[B]:
        if name not in self._accounts:
            self._accounts[name] = _Account(self._start, self._below())
            self._rest(name)
        return self._accounts[name]

    def _rest(self, name: N) -> None:
        """Remember a name without work; of too many, those are forgotten whose time means least."""
        self._idle[name] = None
        if len(self._idle) > 2 * KEPT:
            furthest = sorted(self._idle, key=lambda other: self._accounts[other].time)
            for other in furthest[:-KEPT]:
                if other != name:
                    del self._idle[other], self._accounts[other]

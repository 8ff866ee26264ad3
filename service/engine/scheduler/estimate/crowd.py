"""What waits, and how much of it goes before a request that comes now, or beside it."""

import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from service.engine.scheduler.estimate.ledger import Ledger
from service.engine.scheduler.estimate.pace import Pace
from service.engine.scheduler.queue import QUANTUM
from service.fair.turns import Standing


@dataclass(frozen=True)
class Ahead:
    """Passes that go before a request, or beside it.

    own: of its own caller's requests, and of more urgent ones.
    others: of all else, at most: what shares give to other callers, and what turns and batches are rounded up by.
    """

    own: int
    others: int


class Crowd:
    """What waits, as far as it matters to a request that comes now."""

    def __init__(self, ledger: Ledger, passes: int, caller: Hashable, priority: int, kind: Hashable) -> None:
        """Sort the requests that are there by what they are to one of so many passes."""
        self.urgent, self.kinds_urgent = 0, set[Hashable]()  # passes and kinds of what goes first down to its last row
        self.own = 0  # passes of the caller's that go before it or beside it, if all were of one kind
        self.lane = passes  # the same, and its own, of those that are of its kind
        self.own_kinds = Counter[Hashable]()  # all of its caller's passes by kind
        self.others: dict[Hashable, Counter[Hashable]] = {}  # passes of the other callers, by kind
        self.rest = 0  # passes of all that is not its caller's, and not more urgent
        for group in ledger:
            if group.priority > priority:
                self.urgent += group.total
                self.kinds_urgent.add(group.kind)
            elif group.priority == priority and group.caller == caller:
                large = group.large.values()
                self.own += group.small + sum(min(left, passes) for left in large)
                if group.kind == kind:
                    self.lane += group.small + sum(min(left, passes + QUANTUM) for left in large)
                self.own_kinds[group.kind] += group.total
            else:
                self.rest += group.total
                if group.priority == priority:
                    self.others.setdefault(group.caller, Counter())[group.kind] += group.total
        self.passes, self.caller, self.kind = passes, caller, kind

    def ahead(self, pace: Pace, standing: Standing) -> Ahead:
        """Return what keeps the request waiting until it is done, if nothing else comes.

        Of its own caller's requests small ones go first, and large ones have as much meanwhile as it has; of those of
        other kinds a batch goes for each batch of its own kind. Another caller begins no batch once it has had as much
        as this one will have had in the end (see `Turns`), so that it goes one batch beyond that at most. Each has as
        many batches that are not full as it has kinds of work; what fills them up, of whoever else has work of that
        kind, is counted as well, as far as there is any.

        Args:
            pace: how long a pass takes, and how many a batch has.
            standing: what device time callers have had so far.
        """
        batch, pass_s = pace.batch, pace.pass_s
        beside = sum(min(left, self.lane + 2 * batch) for kind, left in self.own_kinds.items() if kind != self.kind)
        # Large ones of its kind fill up the last batch, and now and then have a turn that small ones have to wait for.
        alike = min(self.own_kinds[self.kind], self.lane - self.passes + 2 * batch + self.lane // 3)
        most = alike + beside
        own = min(self.own, most)
        turns = 1 + len(self.kinds_urgent) + len({*self.own_kinds, self.kind})
        shared = 0
        for other, kinds in self.others.items():
            behind_s = standing.of(self.caller) - standing.of(other)
            served = self.passes + most + (math.ceil(behind_s / pass_s) if pass_s else 0)
            if served > 0:
                share = min(kinds.total(), served + batch)
                shared += share
                turns += min(len(kinds), share)
        return Ahead(self.urgent + own, most - own + min(self.rest, shared + batch * turns))

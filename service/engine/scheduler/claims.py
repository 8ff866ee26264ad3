"""Works that wait for a device, and who waits for each of them.

Equal works are one: whoever asks for what somebody else has asked for waits for the same work, and what was found is
kept for the next one. No thread and no clock stand in here; whoever has the claims has a lock.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from service.engine.scheduler.cache import ScoreCache
from service.engine.scheduler.queue import Queue, Share
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import Ticket, Work
from service.errors import Cancelled, DeadlineExceeded

T = TypeVar("T")
Batch = list[Share[Work[Any]]]
Tickets = Sequence[Ticket[Any]]


class Claims:
    """The queue of a device, with a ticket for everybody who waits."""

    def __init__(self, cache: ScoreCache, clean_bytes: int) -> None:
        """Begin with nobody; works under way hold no more than so many bytes together, but for a single one."""
        self.cache = cache
        self.queue: Queue[Work[Any]] = Queue(clean_bytes)
        self._tickets: dict[Run, list[Ticket[Any]]] = {}  # those that are not answered
        self._sharable: dict[Hashable, Work[Any]] = {}  # works under way, by what their results will be kept under
        self._gone: list[Run] = []  # who was cancelled since the last batch

    def __len__(self) -> int:
        return sum(map(len, self._tickets.values()))

    def put(self, work: Work[T], run: Run, now: float) -> Ticket[T]:
        """Let a request wait for work: this one, or an equal one that is under way or done."""
        if work.cache_key is not None:
            known = self._known(work, run, now)
            if known is not None:
                return known
        ticket = self._claim(work, run, now)
        work.caller, work.priority, work.deadline = self._asked(work)
        work.since = now
        self.queue.put(work)
        return ticket

    def cancel(self, run: Run) -> None:
        """Note that a caller has gone: it is answered before the next batch."""
        self._gone.append(run)

    def cut(self, limit_of: Callable[[Hashable], int], now: float) -> Batch:
        """Answer who has gone or whose time is up, and take the next batch; empty where nothing waits."""
        gone, self._gone = self._gone, []
        for run in gone:
            for ticket in list(self._tickets.get(run, ())):
                self._is_wanted(ticket.work)
        for work in self.queue.expired(now):
            self._is_wanted(work)
        while True:
            shares = self.queue.cut(limit_of)
            batch = [share for share in shares if self._is_wanted(share.item)]
            if batch or not shares:
                break
        for work, _, _ in batch:
            for ticket in work.tickets:
                ticket.run.usage.waited(now - max(ticket.since, work.since))
        return batch

    def worked(self, batch: Batch, seconds: float, again: Batch) -> None:
        """Write down what a batch took; some of its rows were not worked off, and wait again."""
        self.queue.charge(batch, seconds)
        self.queue.give_back(again)

    def advance(self, work: Work[Any], rows: int) -> Tickets:
        """Note that some more rows are done; return the claims on them, who is charged first."""
        work.next += rows
        return list(work.tickets)

    def finish(self, work: Work[T], result: T) -> Tickets:
        """Forget a work that is done, and keep its result; return the claims on it, for somebody to answer."""
        if work.cache_key is not None:
            self.cache.put(work.cache_key, result)  # type: ignore[arg-type]
        return self.forget(work)

    def forget(self, work: Work[Any]) -> Tickets:
        """Drop a work; return the claims on it, for somebody to answer."""
        self.queue.remove(work)
        if self._sharable.get(work.cache_key) is work:
            del self._sharable[work.cache_key]
        work.release()
        tickets, work.tickets = work.tickets, []
        for ticket in tickets:
            self._strike(ticket)
        return tickets

    def forget_all(self) -> Tickets:
        """Drop all works; return the claims on them, for somebody to answer."""
        return [ticket for work in list(self.queue) for ticket in self.forget(work)]

    def _known(self, work: Work[T], run: Run, now: float) -> Ticket[T] | None:
        """Answer a request with what equal work has found, or let it wait for what equal work will find."""
        kept = self.cache.get(work.cache_key)
        if kept is not None:
            ticket: Ticket[Any] = Ticket(run, work, now)
            ticket.finish(kept)
            run.usage.cache, done = "hit", work.count
        elif (under_way := self._sharable.get(work.cache_key)) is not None:
            ticket = self._claim(under_way, run, now)
            self._change(under_way)
            run.usage.cache, done = "shared", under_way.next
        else:
            self._sharable[work.cache_key] = work
            run.usage.cache = "miss"
            return None
        run.usage.avoided += work.count
        run.advance(done)
        return ticket

    def _claim(self, work: Work[T], run: Run, now: float) -> Ticket[T]:
        ticket = Ticket(run, work, now)
        work.tickets.append(ticket)
        self._tickets.setdefault(run, []).append(ticket)
        run.usage.asks()
        return ticket

    def _strike(self, ticket: Ticket[Any]) -> None:
        """Strike a claim that is about to be answered off the list."""
        claims = self._tickets[ticket.run]
        claims.remove(ticket)
        if not claims:
            del self._tickets[ticket.run]

    @staticmethod
    def _asked(work: Work[Any]) -> tuple[Hashable, int, float | None]:
        """Return for whom a work is done (whoever asked first), how urgent it is, and when somebody first gives up."""
        runs = [ticket.run for ticket in work.tickets]
        if len(runs) == 1 and work.caller is not None:
            return runs[0].caller, runs[0].priority, runs[0].deadline
        deadlines = [run.deadline for run in runs if run.deadline is not None]
        caller = runs[0].caller if work.caller is not None else None
        return caller, max(run.priority for run in runs), min(deadlines, default=None)

    def _change(self, work: Work[Any]) -> None:
        caller, priority, deadline = self._asked(work)
        self.queue.change(work, caller=caller, priority=priority, deadline=deadline)

    def _is_wanted(self, work: Work[Any]) -> bool:
        """Answer callers who have gone or whose time is up; drop a work that nobody waits for."""
        waiting = len(work.tickets)
        for ticket in list(work.tickets):
            try:
                ticket.run.check()
            except (Cancelled, DeadlineExceeded) as error:
                work.tickets.remove(ticket)
                self._strike(ticket)
                ticket.fail(error)
        if not work.tickets:
            self.forget(work)
        elif len(work.tickets) < waiting:
            self._change(work)
        return bool(work.tickets)

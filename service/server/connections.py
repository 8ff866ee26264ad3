"""One client's connection: what it may take of time, of descriptors and of memory, whoever is at its other end.

An HTTP server is taken down by clients that do nothing as easily as by those that do much: by a head that never ends,
by a body that stops before its last byte, by an answer that nobody takes. Each of them has its limit here. What cannot
be read as a request is handed to the application like any other, with the error that it is to be answered by: so it
gets a problem document, a request id, a line of log and a count, too.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import RequestResponseCycle

from service.api.edge.addresses import HEALTH
from service.api.observing.recording import REFUSED
from service.api.running import WHOLE
from service.errors import MalformedRequest, Overloaded, ServiceError, TooSlow
from service.fair.portions import Portions
from service.server import sockets, targets
from service.server.crowd import Crowd
from service.server.gate import Gate
from service.server.reading import HEAD, Reading
from service.server.taking import Doors, Taking

log = logging.getLogger("heatlens")
# Between two looks at how much of an answer was taken: a client's system takes it in bursts.
_LOOK_S = 20.0
_CLOSE = (b"connection", b"close")
# Probes that begin at once, and seconds until the next ones do: nobody has to have a key to ask for health, and a crowd
# of those who ask would else keep the loop busy all the time, and Python's lock from who computes.
_PROBES, _PROBES_S = 2, 0.005
# Of a body that goes on behind its request's answer: bytes that are taken as they come, more than any request has, and
# those a second of the rest. Who sends a hundred megabytes learns why they are refused, and costs next to nothing.
_SPARE, _SPARE_RATE = 32 * 2**20, 16 * 2**20


@dataclass
class Front:
    """What all connections share: their limits, and which of them rest or wait to be taken from.

    Whoever holds most of something gives way first: its connection that rests longest, or its slowest answer.

    Args:
        connections: most that are open at a time; one that rests gives way to a new one.
        head_s: seconds from a connection's opening, or from a head's first byte, to the head's end.
        rate: bytes a second that an answer has to be taken at.
        unsent_bytes: most of all answers together that wait to be taken.
        hosts: names that requests may call the server by, in small letters; none: any.
        holder: whom an address counts for; empty: for nobody in particular.
    """

    connections: int
    head_s: float
    rate: float
    unsent_bytes: int
    hosts: frozenset[str] = frozenset()
    holder: Callable[[str], Hashable] = str
    resting: "Crowd[Connection]" = field(default_factory=Crowd)  # without a request under way, the longest first
    turns: "Crowd[Connection]" = field(default_factory=Crowd)  # whose requests wait to begin, the longest first
    waiting: "dict[Connection, None]" = field(default_factory=dict)  # with unsent bytes, the longest first

    def __post_init__(self) -> None:
        """Begin with no connection."""
        self.open = Portions(self.connections)
        self.gate, self.probes, self.doors = Gate(), Gate(_PROBES, _PROBES_S), Doors()

    def let_in(self, new: "Connection") -> bool:
        """Count a new connection, in the place of another one where there are too many; return whether it may stay.

        Where one caller has too many, or there are too many of all, a connection of who has most gives way: one that
        rests, or one whose request waits for its turn where that caller has more than the new one's. So nobody's crowd
        at the door keeps another caller out, or lets only a few of its connections in. Who has more than all others
        loses its own, or is turned away: a connection that has just opened rests, too, until its request is there.
        """
        within, fits = self.open.within(new.holder), self.open.fits()
        self.open.take(new.holder)
        if within and fits:
            return True
        having = self.open.by
        own = having[new.holder]
        holders = [
            (having[one], crowd, one)
            for crowd in (self.resting, self.turns)
            for one in crowd.holders
            if having[one] > own
            or (one == new.holder and (crowd is self.resting or not fits))
            or (having[one] == own and crowd is self.resting and not fits)
        ]
        if not holders:
            return False
        _, crowd, holder = max(holders, key=lambda one: one[0])  # the first of them
        crowd.first(holder).end()
        return True

    def bound(self) -> None:
        """Give up answers until the rest is within the bound: of who has most, those that have waited longest."""
        unsent = {one: one.unsent for one in self.waiting}
        by: Counter[Hashable] = Counter()
        for one, size in unsent.items():
            by[one.holder] += size
        while by.total() > self.unsent_bytes:
            one = max(unsent, key=lambda one: by[one.holder])  # the first of them
            one.give_up("answers that nobody takes fill the memory that is set aside for them")
            by[one.holder] -= unsent.pop(one)


class Connection(Taking):
    """A connection whose head, whose answers and whose number are bounded."""

    _kept = 0  # bytes that wait to be written
    _full = False  # whether the client has to take some before more is written

    def __init__(self, front: Front, **uvicorns: Any) -> None:
        super().__init__(front.doors, **uvicorns)
        self.front = front
        self.conn: Reading = Reading()
        self._application, self.app = self.app, self._answer
        self._head: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._given = 0  # bytes of all answers
        self._left = self._taken = 0  # at the last look: bytes that the client had not, and had taken
        self._over = False  # whether a request is answered whose body still comes
        self._spare = 0  # bytes of it since
        self._refused = False
        self._dropped = 0  # bytes that came after that
        self._broken: ServiceError | None = None  # why the body that is read ends before its end
        self._turn: asyncio.Future[None] | None = None  # that its request waits for

    @property
    def unsent(self) -> int:
        """Bytes of an answer that the system has not taken."""
        return self.transport.get_write_buffer_size() + self._kept

    # Opening and closing

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection in, in the place of one that rests where there are too many."""
        super().connection_made(transport)
        sockets.bound(transport)
        self.holder = self.front.holder(self.client[0]) if self.client is not None else ""
        if not self.front.let_in(self):
            self._refuse(
                Overloaded(
                    "too many connections are open, of all or of yours; come back later, or share them",
                    retry_after_s=2,
                    reason="connections",
                )
            )
            return
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection that has ended."""
        self.front.open.give(self.holder)
        self.front.resting.drop(self.holder, self)
        self.front.waiting.pop(self, None)
        for timer in (self._head, self._look):
            if timer is not None:
                timer.cancel()
        if self._turn is not None:
            self._turn.cancel()
        super().connection_lost(exc)
        # What refers to itself would only be freed by a search of everything that lives.
        self.app, self.cycle = self._application, None  # type: ignore[assignment]
        sockets.forget(self.transport)

    def end(self) -> None:
        """Close a connection that rests, or whose request has not begun; what it still has to send, it sends."""
        self.front.resting.drop(self.holder, self)
        if self._turn is not None:
            self._turn.cancel()
        self.transport.close()
        self._watch_unsent()

    def give_up(self, reason: str) -> None:
        """Close a connection whose client does not take its answer; what it has not taken is dropped."""
        log.warning("an answer was given up: %s", reason, extra={"client": self.client and self.client[0]})
        self.front.waiting.pop(self, None)
        self.transport.abort()

    # Heads

    def take(self, data: bytes) -> float:
        """Read what has come in small pieces, as far as anybody waits for it; slowly, where nobody does."""
        for start in range(0, len(data), HEAD):
            if self._refused:
                self._dropped += len(data) - start
                if self._dropped > HEAD:
                    self.flow.pause_reading()
                break
            super().take(data[start : start + HEAD])
        self._watch_head()
        self._spare = self._spare + len(data) if self._over else 0
        return len(data) / _SPARE_RATE if self._spare > _SPARE else 0.0

    def on_response_complete(self) -> None:
        """Rest after an answer, or take the next request."""
        self._watch_unsent()
        if self._full:
            self.flow.pause_writing()
            self.front.bound()
        super().on_response_complete()
        self._watch_head()

    def _watch_head(self) -> None:
        """Begin to wait for a head, or for the rest of a body that nobody reads, or end that wait.

        uvicorn has a timer of its own for connections that rest between two requests; a byte of whatever ends it.
        """
        over = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        rests = over or self.conn.their_state is h11.IDLE
        rests = rests and not self._refused and not self.transport.is_closing()
        if not rests:
            self.front.resting.drop(self.holder, self)
        else:
            self.front.resting.add(self.holder, self)
        waits = rests and (over or self.timeout_keep_alive_task is None)
        if self._head is not None and (not waits or over is not self._over):
            self._head.cancel()
            self._head = None
        if waits and self._head is None:
            self._head = self.loop.call_later(self.front.head_s, self._late)
        self._over = over

    def _late(self) -> None:
        self._head = None
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(TooSlow(f"the head did not arrive within {self.front.head_s:g} s; send it in one piece"))
        else:
            self.end()

    # What is no request

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read."""
        said = self.conn.mistake or "this is no HTTP/1.1 request that can be read; send one as RFC 9112 describes it"
        self._refuse(MalformedRequest(said))

    def _refuse(self, error: ServiceError) -> None:
        """Answer with an error, and close.

        Where the body of a request is read, it is that request's error. An answer under way is finished first.
        """
        self._refused = True
        self._watch_head()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            if self.cycle.more_body:
                self._broken = error
                self.cycle.scope["headers"] = [*self.cycle.scope["headers"], _CLOSE]
                self.cycle.message_event.set()
            return
        if self.conn.our_state is not h11.IDLE:  # of a request that is answered
            self.end()
            return
        self.flow.pause_reading()
        scope = _unread(self, error)
        self.cycle = RequestResponseCycle(
            scope=scope,
            conn=self.conn,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            on_response=self.on_response_complete,
        )
        task = self.loop.create_task(self.cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the application in its caller's turn, with its error where its head contradicts itself."""
        error = None if REFUSED in scope else targets.mistake(scope, self.front.hosts)
        gate = self.front.probes if scope.get("path") in HEALTH else self.front.gate
        if (turn := gate.enter(self.holder)) is not None:
            self._turn = turn
            self.front.turns.add(self.holder, self)
            await asyncio.wait((turn,))
            self._turn = None
            self.front.turns.drop(self.holder, self)
            if turn.cancelled():  # nobody is there to be answered
                return
        if error is not None:
            scope[REFUSED] = error
            scope["headers"].append(_CLOSE)
        scope[WHOLE] = self.flow.resume_writing
        try:
            await self._application(scope, partial(self._receive, receive), partial(self._send, send))
        finally:
            cycle = self.cycle
            over = cycle is not None and cycle.scope is scope and cycle.response_complete
            if over:  # its connection may rest for a minute
                scope.clear()
                cycle.body, self.headers = bytearray(), []

    async def _receive(self, receive: Receive) -> Message:
        """Return what comes of a request.

        Raises:
            ServiceError: its body cannot be read on.
        """
        message = await receive()
        if self._broken is not None and message["type"] == "http.request":
            raise self._broken
        return message

    # Answers

    async def _send(self, send: Send, message: Message) -> None:
        """Write some of an answer, and count it in the same turn of the loop.

        What is whole waits for no client: it takes memory in any case, and what is written is counted.
        """
        if not message.get("more_body", False):
            self.flow.resume_writing()
        self._kept = len(message.get("body", b""))
        if self._full:
            self.front.bound()
        await self.flow.drain()
        self._given, self._kept = self._given + self._kept, 0
        await send(message)

    def pause_writing(self) -> None:
        """Wait until the client has taken more."""
        self._full = True
        super().pause_writing()
        self._watch_unsent()
        self.front.bound()

    def resume_writing(self) -> None:
        """Go on: the client has taken some."""
        self._full = False
        super().resume_writing()

    def _watch_unsent(self) -> None:
        """Look from time to time whether the client takes what there is."""
        if self._look is None and self.unsent:
            self.front.waiting[self] = None
            self._look_again(sockets.untaken(self.transport))

    def _look_again(self, left: int) -> None:
        self._left, self._taken = left, self._given - left
        self._look = self.loop.call_later(_LOOK_S, self._looked)

    def _looked(self) -> None:
        self._look = None
        left = sockets.untaken(self.transport)
        if not self.unsent:
            self.front.waiting.pop(self, None)
        elif self._given - left - self._taken < min(self.front.rate * _LOOK_S, self._left):
            self.give_up(f"its client took less than {self.front.rate:g} bytes a second")
        else:
            self._look_again(left)


def _unread(connection: Connection, error: ServiceError) -> Any:
    """Return the scope of what is no request, with the error that it is answered by."""
    return {
        "type": "http",
        "asgi": {"version": connection.asgi_version, "spec_version": "2.3"},
        "http_version": "1.1",
        "server": connection.server,
        "client": connection.client,
        "scheme": connection.scheme,
        "method": "-",
        "root_path": connection.root_path,
        "path": "",
        "raw_path": b"",
        "query_string": b"",
        "headers": [_CLOSE],
        "state": connection.app_state.copy(),
        REFUSED: error,
    }

"""Who is looked at next: a few a round of the loop, callers in turn; no more is read before what there is was seen."""

import asyncio
from types import SimpleNamespace

import h11

from service.server.gate import Gate
from service.server.taking import Taking


class Noted(Taking):
    """A connection that notes what it is given to look at, and what becomes of its transport."""

    def __init__(self, gate, holder, pause_s=0.0):
        self._doors, self.holder, self.pause_s = SimpleNamespace(heads=gate, bodies=Gate(4)), holder, pause_s
        self.conn = SimpleNamespace(their_state=h11.IDLE)
        self._come, self._awaited, self._resting = b"", None, None
        self.flow = SimpleNamespace(read_paused=False)
        self.seen, self.reads, self.timers = [], True, []
        self.transport = SimpleNamespace(
            pause_reading=lambda: setattr(self, "reads", False),
            resume_reading=lambda: setattr(self, "reads", True),
            is_closing=lambda: False,
        )
        self.loop = SimpleNamespace(call_later=self.later)

    def later(self, seconds, call):
        self.timers.append((seconds, call))
        return SimpleNamespace(cancel=lambda: self.timers.remove((seconds, call)))

    def take(self, data):
        self.seen.append(data)
        return self.pause_s


async def rounds(count):
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_crowd_is_looked_at_a_few_a_round_and_others_in_between():
    async def run():
        gate = Gate(2)
        crowd, other = [Noted(gate, "crowd") for _ in range(20)], Noted(gate, "other")
        for one in (*crowd, other):
            one.data_received(b"x")
        assert [len(one.seen) for one in crowd] == [1, 1] + [0] * 18
        assert [one.reads for one in crowd] == [True, True] + [False] * 18
        await rounds(3)
        assert other.seen == [b"x"]
        assert sum(len(one.seen) for one in crowd) < 10
        await rounds(20)
        assert all(one.seen == [b"x"] and one.reads for one in crowd)

    asyncio.run(run())


def test_what_comes_while_one_waits_is_looked_at_together():
    async def run():
        gate = Gate(1)
        Noted(gate, "other").data_received(b"")
        one = Noted(gate, "one")
        for piece in (b"a", b"b"):  # who reads a body may let more of it in
            one.transport.resume_reading()
            one.data_received(piece)
            assert not one.reads
        await rounds(4)
        assert (one.seen, one.reads) == ([b"ab"], True)
        one.flow.read_paused = True  # the application has more than it takes
        Noted(gate, "other").data_received(b"")
        one.data_received(b"c")
        await rounds(4)
        assert (one.seen, one.reads) == ([b"ab", b"c"], False)

    asyncio.run(run())


def test_who_is_to_send_slowly_is_not_read_for_a_while():
    async def run():
        one = Noted(Gate(2), "one", pause_s=0.5)
        one.data_received(b"a")
        assert not one.reads
        ((seconds, go_on),) = one.timers
        assert seconds == 0.5
        one.timers.clear()
        go_on()
        assert one.reads

    asyncio.run(run())


def test_bodies_wait_for_no_heads():
    async def run():
        gate = Gate(1)
        Noted(gate, "crowd").data_received(b"x")
        waiting, body = Noted(gate, "crowd"), Noted(gate, "crowd")
        waiting.data_received(b"x")
        body.conn.their_state = h11.SEND_BODY
        body.data_received(b"x")
        assert (waiting.seen, body.seen) == ([], [b"x"])
        await rounds(4)

    asyncio.run(run())

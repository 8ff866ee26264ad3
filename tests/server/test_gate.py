"""Whose request begins next: few a round, callers in turn, and none of those that were called off."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.server.gate import Gate


async def _rounds(gate: Gate, ends: Callable[[], bool], most: int = 1000) -> None:
    for _ in range(most):
        if ends():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not end")


def _run(work: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), 60))


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 3))
def test_all_get_in_few_a_round_and_callers_in_turn(callers: list[str], at_once: int) -> None:
    async def work() -> None:
        gate, order = Gate(at_once), []
        turns = [(caller, i, gate.enter(caller)) for i, caller in enumerate(callers)]
        order += [(caller, i) for caller, i, turn in turns if turn is None]
        assert len(order) == min(at_once, len(callers))
        waiting = {(caller, i): turn for caller, i, turn in turns if turn is not None}
        while waiting:
            came = [who for who, turn in waiting.items() if turn.done()]
            assert len(came) <= at_once
            for caller, _ in came:  # who waits has had at most one turn less than who has just had one
                had = [who for who, _ in order[at_once:]].count(caller)
                for other in {who for who, _ in waiting} - {caller}:
                    assert had <= [who for who, _ in order[at_once:]].count(other) + 1
            order += came
            for who in came:
                del waiting[who]
            await asyncio.sleep(0)
        assert sorted(order, key=lambda one: one[1]) == list(zip(callers, range(len(callers)), strict=True))
        for caller in "abc":
            own = [i for who, i in order if who == caller]
            assert own == sorted(own)

    _run(work)


def test_one_of_many_callers_does_not_wait_for_another_ones_crowd() -> None:
    async def work() -> int:
        gate = Gate(2)
        for _ in range(500):
            gate.enter("greedy")
        turn = gate.enter("honest")
        rounds = 0
        while not turn.done():
            rounds += 1
            await asyncio.sleep(0)
        return rounds

    assert _run(work) <= 2


def test_without_a_crowd_nobody_waits() -> None:
    async def work() -> None:
        gate = Gate(2)
        for _ in range(5):
            assert gate.enter("a") is None
            assert gate.enter("b") is None
            for _ in range(2):  # a round each
                await asyncio.sleep(0)

    _run(work)


def test_who_was_called_off_takes_nobodys_turn() -> None:
    async def work() -> None:
        gate = Gate(1)
        assert gate.enter("a") is None
        gone = [gate.enter("a") for _ in range(100)]
        last = gate.enter("a")
        for one in gone:
            one.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert last.done()

    _run(work)


def test_a_gate_that_nobody_waits_at_rests() -> None:
    async def work() -> None:
        gate = Gate(2)
        gate.enter("a")
        await _rounds(gate, lambda: not gate._turning)

    _run(work)


def test_a_pace_keeps_rounds_apart_however_often_the_loop_goes_round() -> None:
    async def work() -> None:
        gate, hasty = Gate(1, pace_s=60.0), Gate(1)
        assert gate.enter("a") is hasty.enter("a") is None
        slow, quick = gate.enter("b"), hasty.enter("b")
        assert slow is not None
        assert quick is not None
        await _rounds(hasty, quick.done)
        assert not slow.done()
        paced = Gate(1, pace_s=1e-4)
        assert paced.enter("a") is None
        await paced.enter("b")  # type: ignore[misc]

    _run(work)

"""Whether a model answers: one row for all who ask, and a time limit that nothing takes away."""

import asyncio
import threading

import pytest

from service.api.readiness import Readiness
from service.errors import DeadlineExceeded, ModelUnavailable
from tests.engine.scheduler.doubles import Clock


class Checks:
    def __init__(self):
        self.asked, self.go = [], threading.Event()
        self.error = None

    def __call__(self, name):
        self.asked.append(name)
        assert self.go.wait(60)
        if self.error is not None:
            raise self.error


@pytest.fixture
def checks():
    checks = Checks()
    yield checks
    checks.go.set()


def test_all_who_ask_within_a_second_share_one_row(checks):
    clock = Clock()
    readiness = Readiness(checks, 60, clock=clock)

    async def ask():
        many = asyncio.gather(*(readiness.of("a") for _ in range(100)))
        await asyncio.sleep(0)
        checks.go.set()
        await many
        clock.now += 0.9
        await readiness.of("a")
        assert checks.asked == ["a"]
        await readiness.of("b")
        clock.now += 0.2
        await readiness.of("a")
        assert checks.asked == ["a", "b", "a"]

    asyncio.run(ask())
    readiness.close()


def test_what_hangs_is_told_in_time_and_takes_one_thread(checks):
    clock = Clock()
    readiness = Readiness(checks, 0.05, clock=clock)

    async def ask():
        for _ in range(3):
            with pytest.raises(DeadlineExceeded, match=r"'a' did not answer a row within 0\.05 s"):
                await readiness.of("a")
            clock.now += 10
        assert checks.asked == ["a"]  # the same row is still waited for
        checks.go.set()

    asyncio.run(ask())
    readiness.close()


def test_an_error_is_everybodys(checks):
    readiness = Readiness(checks, 60, clock=Clock())
    checks.error = ModelUnavailable("it failed")
    checks.go.set()

    async def ask():
        found = await asyncio.gather(*(readiness.of("a") for _ in range(3)), return_exceptions=True)
        assert found == [checks.error] * 3

    asyncio.run(ask())
    assert checks.asked == ["a"]
    readiness.close()

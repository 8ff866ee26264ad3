"""Short forms: the watchdog sees a loop that stalls, attackers get their answers, and a siege tells what it found."""

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.load.attacks import ATTACKS, Attacker, crumbs, garbled, greedy, impatient, probes, refused
from tests.load.siege import Report, Siege
from tests.load.traffic import Server
from tests.load.watched import Watchdog

TRUTH = [np.array([1.0], np.float32)]


def test_a_loop_that_stalls_is_found(tmp_path: Path) -> None:
    async def stalls() -> Watchdog:
        dog = Watchdog(asyncio.get_running_loop(), tmp_path / "lag.json")
        watching = asyncio.create_task(asyncio.to_thread(dog.look))
        await asyncio.sleep(0)
        assert dog.long.wait(60)  # what a loop must not do
        await watching
        return dog

    dog = asyncio.run(stalls())
    dog.write()
    found = json.loads((tmp_path / "lag.json").read_text())
    assert max(found["lags"]) > 0.1
    assert "dog.long.wait(60)" in found["worst"][1]
    assert len(found["overslept"]) == 1


@pytest.mark.parametrize("work", [garbled, greedy, impatient, probes, crumbs, refused])
def test_an_attacker_has_an_address_of_its_own_and_gets_no_5xx(client: httpx.Client, work) -> None:  # type: ignore[no-untyped-def]
    url = client.base_url
    attacker = Attacker("127.0.0.9", url.host, url.port or 80, time.monotonic() + 0.4)
    work(attacker)
    assert attacker.got.total() > 0
    assert not [kind for kind in attacker.got if kind.startswith("5") and kind not in ("503", "504")]
    assert {address for address, _ in ATTACKS.values()} == {f"127.0.0.{n}" for n in range(2, 10)}


def test_bounds_that_are_broken_are_told() -> None:
    held = {
        "outcomes": Counter({"in time": 100}),
        "live_s": [0.1] * 1000,
        "memory_mib": [900.0],
        "lag": {"lags": [0.1]},
    }
    assert Report(**held).violations == []
    broken = {
        "outcomes": Counter({"in time": 94, "late": 6}),
        "live_s": [0.1] * 980 + [0.6] * 20,
        "live_bad": Counter({"503": 1}),
        "memory_mib": [900.0, 2100.0],
        "lag": {"lags": [0.1, 0.3]},
        "wrong": ["/predict"],
        "complaints": ["a defect"],
        "left": "2 still wait",
    }
    for name, value in broken.items():
        assert len(Report(**held | {name: value}).violations) == 1, name
        assert "VIOLATION" in Report(**held | {name: value}).table()


def test_an_honest_client_comes_back_when_it_is_told_to(client: httpx.Client) -> None:
    siege = Siege(Server(str(client.base_url).rstrip("/"), None, Path()), ["predict"], patience_s=60, seed=0)  # type: ignore[arg-type]
    refusals = iter([429, 503])

    def answered(request: httpx.Request) -> httpx.Response:
        if (status := next(refusals, None)) is not None:
            return httpx.Response(status, headers={"retry-after": "0"})
        return httpx.Response(200, json={"predictions": [{"logit": 1.0}]})

    async def ask() -> None:
        siege.truth = {(kind.path, number): values for kind, number in siege.cases for values in [TRUTH]}
        async with httpx.AsyncClient(base_url="http://h", transport=httpx.MockTransport(answered)) as one:
            await siege.ask(one)
            siege.truth = {case: [TRUTH[0] + 1] for case in siege.truth}
            await siege.ask(one)

    asyncio.run(ask())
    assert siege.report.outcomes == {"in time": 1, "wrong": 1}
    assert len(siege.report.violations) >= 1

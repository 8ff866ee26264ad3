"""What each rule of admission is good for: `python -m tests.load.admission_rules [--rounds 3] [--seconds 60]`.

At four times the capacity, servers with all rules and with one of them left out take turns. A rule stays where without
it goodput falls by more than 5 %, or more than 1 % of what was let in is late.
"""

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from typing import Any, get_args

import aiohttp

from service.engine.scheduler.admission import AdmissionRule
from tests.load.open_loop import Runner, Step
from tests.load.traffic import MIXES, serving

RULES = get_args(AdmissionRule)
# The rules are no setting that operators should have: a server without one is made by changing its default.
SERVER = """
from service.engine.scheduler.admission import Admission
Admission.__init__.__kwdefaults__["rules"] = {rules!r}
from service.cli import main
main()
"""


async def capacity(url: str, options: Any) -> float:
    """Return the requests per second that clients get who wait for each answer."""
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as client:
        runner = Runner(client, options.mix, options.deadline, 0)
        await runner.capacity(5, options.clients)  # warms up
        return await runner.capacity(20, options.clients)


async def overload(url: str, rate: float, options: Any, seed: int) -> Step:
    """Send four times as much as the server can answer."""
    patience = aiohttp.ClientTimeout(total=options.deadline * 3 + 30)
    async with aiohttp.ClientSession(url, timeout=patience, connector=aiohttp.TCPConnector(limit=0)) as client:
        runner = Runner(client, options.mix, options.deadline, seed)
        idle = Runner(client, "predict", options.deadline, seed)
        usual_s = 3 * max([(await idle.one(time.perf_counter())).latency_s for _ in range(20)][5:])
        await runner.capacity(5, options.clients)
        return await runner.step(4, 4 * rate, options.seconds, usual_s)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.admission_rules", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="of each overload")
    parser.add_argument("--mix", choices=MIXES, default="mixed")
    parser.add_argument("--deadline", type=float, default=10, help="timeout_s of each request")
    parser.add_argument("--clients", type=int, default=16, help="that measure the capacity")
    options = parser.parse_args()
    plain = {"HEATLENS_SCORE_CACHE_MIB": "0", "HEATLENS_TUNE": "false"}
    with serving(**plain) as server:
        rate = asyncio.run(capacity(server.url, options))
    print(f"capacity {rate:.1f} requests/s, mix {options.mix}", flush=True)
    variants = {"all rules": RULES} | {f"without {rule}": tuple(r for r in RULES if r != rule) for rule in RULES}
    found: defaultdict[str, list[Step]] = defaultdict(list)
    for number in range(options.rounds):
        names = list(variants)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with serving(program=("-c", SERVER.format(rules=variants[name])), **plain) as server:
                step = asyncio.run(overload(server.url, rate, options, number))
            found[name].append(step)
            print(f"{name}: {step.goodput:.1f}/s, {step.late} late, {step.refused} refused", flush=True)
    print("\n| Rules | Goodput/s (each run) | of all rules | Late of those let in |\n| --- | --- | --- | --- |")
    usual = statistics.median(step.goodput for step in found["all rules"])
    for name, steps in found.items():
        each = ", ".join(f"{step.goodput:.1f}" for step in steps)
        share = statistics.median(step.goodput for step in steps) / usual
        late = sum(step.late for step in steps) / max(1, sum(step.sent - step.refused for step in steps))
        print(f"| {name} | {each} | {share:.1%} | {late:.2%} |")


if __name__ == "__main__":
    main()

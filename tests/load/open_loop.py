"""Load that does not wait for answers: `python -m tests.load.open_loop (--serve | --url URL) [--rate R] [--seconds S]`.

Requests leave on a seeded Poisson schedule, whatever the server does, and their latency counts from the moment they
were meant to leave. Capacity is measured first, with clients that do wait; then come steps at half of it, at it, at
twice and at four times. Goodput is answers within the deadline that come while requests are sent, per second: what has
piled up by then is answered after it, and would count for more the shorter a step is. The client is aiohttp: on the
server's own cores one in pure Python would be what is measured.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from tests.load.traffic import MIXES, body, draw, headers, metrics, serving, wait_tuned


@dataclass
class Outcome:
    """How one request ended."""

    status: int  # 0: no answer
    ended: float
    latency_s: float
    retry_after: bool


@dataclass
class Step:
    """What a rate came to."""

    multiple: float
    rate: float
    seconds: float
    sent: int
    goodput: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: int
    refused_without_retry_after: int
    late: int  # accepted, and not answered within the deadline
    other: int
    late_starts_ms: float  # how far the client itself fell behind its schedule, at worst
    memory_mib: float
    peak_memory_mib: float
    recovery_s: float
    statuses: dict[str, int]


class Runner:
    """Sends requests of one mix to one server."""

    def __init__(self, client: aiohttp.ClientSession, mix: str, deadline_s: float, seed: int) -> None:
        self.client, self.mix, self.deadline_s, self.rng = client, mix, deadline_s, random.Random(seed)
        self.behind_s = 0.0
        self.bodies: dict[Any, tuple[bytes, str]] = {}  # made once: the client must not be what is measured

    async def one(self, intended: float) -> Outcome:
        name, kind, image, multipart = draw(self.mix, self.rng)
        known = name, id(image), multipart
        if known not in self.bodies:
            self.bodies[known] = body(image, kind.fields | {"timeout_s": self.deadline_s}, multipart=multipart)
        data, content_type = self.bodies[known]
        self.behind_s = max(self.behind_s, time.perf_counter() - intended)
        try:
            async with self.client.post(kind.path, data=data, headers=headers(content_type)) as response:
                await response.read()
        except (aiohttp.ClientError, TimeoutError):
            ended = time.perf_counter()
            return Outcome(0, ended, ended - intended, False)
        ended = time.perf_counter()
        return Outcome(response.status, ended, ended - intended, "retry-after" in response.headers)

    async def memory_mib(self) -> float:
        async with self.client.get("/metrics", headers=headers("text/plain")) as response:
            text = await response.text()
        return metrics(text).get("process_resident_memory_bytes", float("nan")) / 2**20

    async def capacity(self, seconds: float, clients: int) -> float:
        """Return requests per second that clients get who wait for each answer."""
        ends, done = time.perf_counter() + seconds, 0

        async def ask() -> None:
            nonlocal done
            while (now := time.perf_counter()) < ends:
                outcome = await self.one(now)
                done += outcome.status == 200

        started = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(clients)))
        return done / (time.perf_counter() - started)

    async def recovery(self, since: float, usual_s: float) -> float:
        """Return the time until three answers in a row come as quickly as they do without load."""
        quick = 0
        while quick < 3 and time.perf_counter() - since < 120:
            asked = Runner(self.client, "predict", self.deadline_s, 0)
            outcome = await asked.one(time.perf_counter())
            quick = quick + 1 if outcome.status == 200 and outcome.latency_s < usual_s else 0
            await asyncio.sleep(0 if quick else 0.05)
        return time.perf_counter() - since

    async def step(self, multiple: float, rate: float, seconds: float, usual_s: float) -> Step:
        """Send at a rate for a while, wait for all answers, and see how soon the server is itself again."""
        before, peak, tasks, self.behind_s = await self.memory_mib(), 0.0, [], 0.0
        started = intended = time.perf_counter()

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, await self.memory_mib())
                await asyncio.sleep(1)

        watching = asyncio.create_task(watch())
        while (intended := intended + self.rng.expovariate(rate)) < started + seconds:
            await asyncio.sleep(max(0.0, intended - time.perf_counter()))
            tasks.append(asyncio.create_task(self.one(intended)))
        await asyncio.sleep(max(0.0, started + seconds - time.perf_counter()))
        ended = time.perf_counter()
        recovering = asyncio.create_task(self.recovery(ended, usual_s))
        outcomes = await asyncio.gather(*tasks)
        recovery_s = await recovering
        watching.cancel()
        good = [o for o in outcomes if o.status == 200 and o.latency_s <= self.deadline_s]
        refused = [o for o in outcomes if o.status == 429]
        late = sum(o.status == 504 or (o.status == 200 and o.latency_s > self.deadline_s) for o in outcomes)
        p50, p95, p99 = np.percentile([o.latency_s for o in good] or [np.nan], [50, 95, 99]) * 1e3
        return Step(
            multiple=multiple,
            rate=rate,
            seconds=ended - started,
            sent=len(outcomes),
            goodput=sum(o.ended <= ended for o in good) / (ended - started),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            refused=len(refused),
            refused_without_retry_after=sum(not o.retry_after for o in refused),
            late=late,
            other=len(outcomes) - len(good) - len(refused) - late,
            late_starts_ms=self.behind_s * 1e3,
            memory_mib=before,
            peak_memory_mib=max(peak, await self.memory_mib()),
            recovery_s=recovery_s,
            statuses={str(k): n for k, n in sorted(Counter(o.status for o in outcomes).items())},
        )


async def run(url: str, options: Any) -> tuple[float, list[Step]]:
    """Return the capacity and the steps."""
    patience = aiohttp.ClientTimeout(total=options.deadline * 3 + 30)
    async with aiohttp.ClientSession(url, timeout=patience, connector=aiohttp.TCPConnector(limit=0)) as client:
        runner = Runner(client, options.mix, options.deadline, options.seed)
        idle = Runner(client, "predict", options.deadline, options.seed)
        usual_s = 3 * max([(await idle.one(time.perf_counter())).latency_s for _ in range(20)][5:])
        await runner.capacity(min(5, options.seconds), options.clients)  # warms up
        capacity = options.rate or await runner.capacity(options.seconds, options.clients)
        steps = []
        for multiple in [m for m in (0.5, 1, 2, 4, 8) if m < options.capacity_multiple] + [options.capacity_multiple]:
            seconds = options.last_seconds if multiple == options.capacity_multiple else options.seconds
            steps.append(await runner.step(multiple, capacity * multiple, seconds, usual_s))
            print(".", end="", flush=True, file=sys.stderr)
    return capacity, steps


def table(capacity: float, steps: list[Step], mix: str) -> str:
    """Return the steps as Markdown."""
    lines = [
        f"Capacity of mix `{mix}`: {capacity:.1f} requests/s.\n",
        "| load | sent/s | goodput/s | p50 ms | p95 ms | p99 ms "
        "| refused | late | other | peak MiB | recovery s | behind ms |",
        "|-----:|-------:|----------:|-------:|-------:|-------:|--------:|-----:|------:|---------:|-----------:|----------:|",
    ]
    lines += [
        f"| {s.multiple:g}x | {s.rate:.1f} | {s.goodput:.1f} | {s.p50_ms:.0f} | {s.p95_ms:.0f} | {s.p99_ms:.0f} "
        f"| {s.refused} | {s.late} | {s.other} | {s.peak_memory_mib:.0f} | {s.recovery_s:.2f} "
        f"| {s.late_starts_ms:.0f} |"
        for s in steps
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.open_loop")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url")
    where.add_argument(
        "--serve", nargs="?", const="", help="start a server here; options of `heatlens serve` may follow"
    )
    parser.add_argument("--rate", type=float, help="requests/s taken for the capacity; measured by default")
    parser.add_argument("--seconds", type=float, default=30, help="of each step")
    parser.add_argument("--last-seconds", type=float, help="of the last step; default: as long as the others")
    parser.add_argument("--capacity-multiple", type=float, default=4, help="of the last step")
    parser.add_argument("--mix", choices=MIXES, default="mixed")
    parser.add_argument("--deadline", type=float, default=10, help="timeout_s of each request")
    parser.add_argument("--clients", type=int, default=16, help="that measure the capacity")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    options.last_seconds = options.last_seconds or options.seconds
    # Kept outputs would answer what is asked again, and no user asks the same eight questions for ever.
    own = serving(*(options.serve or "").split(), HEATLENS_SCORE_CACHE_MIB="0") if options.serve is not None else None
    with own or nullcontext() as server:
        if server:
            wait_tuned(server.url)
        capacity, steps = asyncio.run(run(server.url if server else options.url, options))
    print(table(capacity, steps, options.mix))
    if options.json:
        options.json.write_text(json.dumps({"capacity": capacity, "steps": [asdict(s) for s in steps]}, indent=1))


if __name__ == "__main__":
    main()

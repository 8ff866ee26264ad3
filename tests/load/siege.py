"""All attacks at once beside honest clients: `python -m tests.load.siege --seconds 300 [--keys]`.

Attackers come from 127.0.0.2 to 127.0.0.9, honest clients from 127.0.0.1. Every honest answer is held against what the
same server said to one request at a time before, and has to be there in time: a client who is told to come back does
so, within its patience. Meanwhile somebody looks at `/health/live` a thousand times, at the memory of the process, and
at the lag of its event loop. Exit status 1 says that one of the bounds was broken. With `--keys` the server wants keys,
and the attackers have one, too.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil

from tests.load.attacks import attacking
from tests.load.soak import TOLERANCE, Case, difference, values
from tests.load.traffic import KINDS, Server, body, headers, metrics, pictures, serving

IN_TIME, LIVE_P99_S, LAG_S, MEMORY_MIB = 0.95, 0.5, 0.25, 2048.0
PROBES = 1_100  # of /health/live, however long it lasts
KINDS_ASKED = "predict,predict,grad-cam,saliency,feature-maps,occlusion"


@dataclass
class Report:
    """What a siege came to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # until an honest client had its answer
    wrong: list[str] = field(default_factory=list)
    worst: float = 0.0
    live_s: list[float] = field(default_factory=list)
    live_bad: Counter[str] = field(default_factory=Counter)
    memory_mib: list[float] = field(default_factory=list)
    lag: dict[str, object] = field(default_factory=dict)
    attackers: dict[str, dict[str, int]] = field(default_factory=dict)
    left: str = ""
    complaints: list[str] = field(default_factory=list)

    @property
    def in_time(self) -> float:
        """Return the share of honest requests that were answered rightly and in time."""
        asked = self.outcomes.total()
        return self.outcomes["in time"] / asked if asked else 0.0

    def lags(self, name: str) -> np.ndarray:
        return np.array(self.lag.get(name) or [0.0])

    @property
    def violations(self) -> list[str]:
        """Return the bounds that were broken."""
        live = np.percentile(self.live_s, 99) if self.live_s else float("inf")
        found = [f"wrong: {text}" for text in self.wrong[:10]]
        found += [f"only {self.in_time:.1%} in time"] if self.in_time < IN_TIME else []
        found += [f"/health/live: {live:.2f} s at p99"] if live >= LIVE_P99_S else []
        found += [f"/health/live: {dict(self.live_bad)}"] if self.live_bad else []
        found += [f"{max(self.memory_mib):,.0f} MiB"] if max(self.memory_mib, default=0) >= MEMORY_MIB else []
        found += [f"loop lag of {self.lags('lags').max():.2f} s"] if self.lags("lags").max() > LAG_S else []
        found += [f"logged: {line[:300]}" for line in self.complaints[:10]]
        return found + ([self.left] if self.left else [])

    def table(self) -> str:
        """Return all of it as text."""

        def spread(numbers: np.ndarray | list[float]) -> str:
            found = np.percentile(numbers, (50, 95, 99, 100)) if len(numbers) else np.zeros(4)
            return ", ".join(f"{name} {x:.3f} s" for name, x in zip(("p50", "p95", "p99", "most"), found, strict=True))

        rows = [f"honest: {dict(self.outcomes)}; {self.in_time:.1%} in time; {spread(self.seconds)}"]
        rows += [f"largest difference from the truth: {self.worst:.1e} of the largest value"]
        rows += [f"/health/live, {len(self.live_s):,} times: {spread(self.live_s)}; not 200: {dict(self.live_bad)}"]
        rows += [f"loop lag, {len(self.lags('lags')):,} times: {spread(self.lags('lags'))}"]
        rows += [f"the watchdog overslept: {spread(self.lags('overslept'))} (what the machine had no time for)"]
        rows += [f"memory: {min(self.memory_mib, default=0):,.0f} to {max(self.memory_mib, default=0):,.0f} MiB"]
        most: dict[str, int] = self.lag.get("most", {})  # type: ignore[assignment]
        parts = (f"{name} {size / 2**20:,.0f}" for name, size in most.items() if name != "threads")
        rows += [f"  at the most, in MiB: {', '.join(parts)}; {most.get('threads', 0)} threads"]
        rows += [f"attackers: {name} {dict(sorted(got.items()))}" for name, got in self.attackers.items()]
        for place, count in self.lag.get("places", ()):  # type: ignore[attr-defined]
            rows.append(f"  loop kept others waiting {count} times at {place}")
        for name, most in self.lag.get("collected", ()):  # type: ignore[attr-defined]
            rows.append(f"  the collector took at most {most} ms for {name}")
        for place, count in self.lag.get("holding", ()):  # type: ignore[attr-defined]
            rows.append(f"  seen {count} times where all others waited: {place}")
        return "\n".join([*rows, *(f"VIOLATION {text}" for text in self.violations)])


class Siege:
    """Honest clients of a server that others attack."""

    def __init__(self, server: Server, kinds: list[str], patience_s: float, seed: int) -> None:
        self.server, self.patience_s, self.rng = server, patience_s, random.Random(seed)
        self.cases: list[Case] = [(KINDS[name], number) for name in kinds for number in range(3)]
        self.truth: dict[tuple[str, int], list[np.ndarray]] = {}
        self.report = Report()

    def request(self, case: Case) -> tuple[bytes, dict[str, str]]:
        kind, number = case
        fields = kind.fields | {"precision": "fp32", "timeout_s": self.patience_s}
        data, content_type = body(pictures()[number], fields, multipart=self.rng.random() < 0.5)
        return data, headers(content_type)

    async def learn(self) -> None:
        """Ask everything once, one request at a time."""
        async with httpx.AsyncClient(base_url=self.server.url, timeout=300) as client:
            for case in dict.fromkeys((kind.path, number) for kind, number in self.cases):
                kind = next(kind for kind, _ in self.cases if kind.path == case[0])
                data, sent = self.request((kind, case[1]))
                answer = await client.post(kind.path, content=data, headers=sent)
                self.truth[case] = values(answer.raise_for_status().json())

    async def ask(self, client: httpx.AsyncClient) -> None:
        """Ask for one thing until it is there, or patience is at its end."""
        case = self.rng.choice(self.cases)
        data, sent = self.request(case)
        started, outcome = time.monotonic(), "late"
        while (left := self.patience_s - (time.monotonic() - started)) > 0:
            try:
                response = await client.post(case[0].path, content=data, headers=sent, timeout=left)
            except httpx.TimeoutException:
                break
            except httpx.TransportError as error:
                outcome = type(error).__name__
                await asyncio.sleep(0.2)
                continue
            if response.status_code in (429, 503) and "retry-after" in response.headers:
                outcome = f"late, refused with {response.status_code}"
                await asyncio.sleep(min(left, int(response.headers["retry-after"])))
                continue
            outcome = "in time" if response.status_code == 200 else f"status {response.status_code}"
            if response.status_code == 200:
                share = difference(values(response.json()), self.truth[case[0].path, case[1]])
                self.report.worst = max(self.report.worst, share)
                if not share <= TOLERANCE:
                    outcome = "wrong"
                    self.report.wrong.append(f"{case[0].path}, picture {case[1]}: by {share:.1e}")
            break
        self.report.outcomes[outcome] += 1
        self.report.seconds.append(time.monotonic() - started)

    async def honest(self, ends: float) -> None:
        """One client, on a connection that it keeps as long as it is let."""
        async with httpx.AsyncClient(base_url=self.server.url) as client:
            while time.monotonic() < ends:
                await self.ask(client)
                await asyncio.sleep(self.rng.uniform(0, 0.5))

    async def live(self, ends: float, every_s: float) -> None:
        """Look whether the server lives, each time on a connection of its own, as those do who would restart it."""
        waiting: set[asyncio.Task[None]] = set()

        place = urlsplit(self.server.url)
        request = f"GET /health/live HTTP/1.1\r\nhost: {place.netloc}\r\nconnection: close\r\n\r\n".encode()

        async def once() -> None:
            started = time.monotonic()
            try:
                async with asyncio.timeout(30):
                    reader, writer = await asyncio.open_connection(place.hostname, place.port)
                    writer.write(request)
                    status = (await reader.read())[9:12].decode("latin-1")
                    writer.close()
            except (OSError, TimeoutError) as error:
                self.report.live_bad[type(error).__name__] += 1
            else:
                if status != "200":
                    self.report.live_bad[status] += 1
            self.report.live_s.append(time.monotonic() - started)

        while time.monotonic() < ends:
            task = asyncio.create_task(once())
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            await asyncio.sleep(every_s)
        await asyncio.gather(*waiting)

    async def memory(self) -> None:
        process = psutil.Process(self.server.pid)
        while True:
            self.report.memory_mib.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(0.1)

    async def run(self, seconds: float, clients: int, lag: Path, attacks: list[str]) -> Report:
        """Learn the truth, let the attackers loose, and see."""
        await self.learn()
        ends = time.monotonic() + seconds
        watching = asyncio.create_task(self.memory())
        async with attacking(self.server.url, seconds, attacks) as told:
            await asyncio.gather(*(self.honest(ends) for _ in range(clients)), self.live(ends, seconds / PROBES))
            self.report.attackers = await told
        watching.cancel()
        await self.rest()
        self.report.lag = json.loads(lag.read_text())
        self.report.complaints = self.server.complaints
        return self.report

    async def rest(self) -> None:
        """See that nothing is left of anybody."""
        async with httpx.AsyncClient(base_url=self.server.url, timeout=60) as client:
            for _ in range(100):
                samples = metrics((await client.get("/metrics", headers=headers("text/plain"))).text)
                waiting = samples["heatlens_requests_waiting"] + samples["heatlens_passes_waiting"]
                if not waiting:
                    return
                await asyncio.sleep(0.2)
        self.report.left = f"{waiting:.0f} requests and passes still wait"


@contextmanager
def besieged(*, keys: bool, serve: list[str]) -> Iterator[tuple[Server, Path]]:
    """Serve at default limits, with a watchdog of the loop; give the server and where its lag is told."""
    environment = {"HEATLENS_TUNE": "false"}
    if keys:
        environment["HEATLENS_API_KEYS"] = "honest attacker"
    with tempfile.TemporaryDirectory() as folder:
        lag = Path(folder) / "lag.json"
        program = ("-m", "tests.load.watched")
        with serving(*serve, program=program, LOOP_LAG=str(lag), **environment) as server:
            yield server, lag


def main() -> int:
    """Run, print, and say with the exit status whether all bounds held."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.siege")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--keys", action="store_true", help="the server wants keys, and the attackers have one")
    parser.add_argument("--clients", type=int, default=4, help="honest ones")
    parser.add_argument("--patience", type=float, default=60, help="seconds within which an honest answer is in time")
    parser.add_argument("--kinds", default=KINDS_ASKED)
    parser.add_argument("--attacks", nargs="*", default=[], help="only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", default="", help="options of `heatlens serve`")
    options = parser.parse_args()
    with besieged(keys=options.keys, serve=options.serve.split()) as (server, lag):
        if options.keys:
            os.environ |= {"HEATLENS_LOAD_KEY": "honest", "HEATLENS_SIEGE_KEY": "attacker"}
        siege = Siege(server, options.kinds.split(","), options.patience, options.seed)
        report = asyncio.run(siege.run(options.seconds, options.clients, lag, options.attacks))
    print(report.table())
    return bool(report.violations)


if __name__ == "__main__":
    sys.exit(main())

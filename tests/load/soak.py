"""Mixed load for long, every answer held against its truth: `python -m tests.load.soak --minutes 20`.

The truth is what the same server answers to one request at a time. Some clients hang up while they send, while they
wait, or in the middle of events; with `--siege` others attack the server meanwhile, for half a minute every two (see
`tests.load.siege`). In the end nothing may be left of any of them: no thread, file, waiting request, and
no more memory than after the warm-up but for 3 %. Exit status 1 says that something was.

Memory that was freed is given back only where there is much of it, so that what a server at rest holds depends on when
that last was: of a leak each look tells, and of that only some. So the least of several looks counts, between which it
works for a while.

What PyTorch's libraries keep for each size of a batch levels off with the last size that is met; crowds of every size
come first, so that little of it is left to what is measured.
"""

import argparse
import asyncio
import base64
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil

from tests.load.attacks import attacking
from tests.load.traffic import KINDS, Kind, Server, body, headers, metrics, pictures, serving

TOLERANCE = 1e-5  # of the largest value
BURST_S, EVERY_S = 30.0, 120.0  # of attacks
LOOKS, BETWEEN_S = 5, 15.0  # at a server at rest, and how long it works between two
Case = tuple[Kind, int]


@dataclass
class Idle:
    """What a server holds when nobody asks."""

    rss_mib: float
    heap_mib: float  # of that, what the C library's allocator has
    code_mib: float  # of that, files that are mapped: a part of a library is there once it was called
    kept_mib: float  # of that, outputs for requests that are made again, up to a setting
    threads: int
    files: int
    waiting: float


@dataclass
class Report:
    """What a soak came to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    worst: float = 0.0
    memory_mib: list[float] = field(default_factory=list)  # every second
    before: Idle | None = None
    after: Idle | None = None

    def table(self) -> str:
        counts = ", ".join(f"{name} {count:,}" for name, count in self.outcomes.most_common())
        rows = [counts, f"largest difference from the truth: {self.worst:.1e} of the largest value"]
        rows += [f"idle after the warm-up: {self.before}", f"idle in the end:        {self.after}"]
        spread = self.memory_mib[:: max(1, len(self.memory_mib) // 12)]
        rows += [
            f"memory over time: {', '.join(f'{mib:.0f}' for mib in spread)} MiB",
            *(f"VIOLATION {text}" for text in self.violations[:20]),
        ]
        return "\n".join(rows)


def values(answer: dict[str, Any]) -> list[np.ndarray]:
    """Return the numbers of an answer that have to be right."""
    arrays = [np.array([p.get("logit", p.get("value")) for p in answer["predictions"]], np.float32)]
    for m in answer.get("maps", ()):
        raw = np.frombuffer(base64.b64decode(m["array"]["data"]), "<f4")
        arrays += [raw.reshape(m["array"]["shape"]), np.array([m["target"]["index"] if m["target"] else -1])]
    return arrays


def difference(found: list[np.ndarray], truth: list[np.ndarray]) -> float:
    """Return the largest difference, as a share of the largest value (at least of 1)."""
    if [a.shape for a in found] != [a.shape for a in truth]:
        return float("inf")
    shares = (
        np.abs(a - b).max(initial=0) / max(1, np.abs(b).max(initial=0)) for a, b in zip(found, truth, strict=True)
    )
    return max(map(float, shares))


class Soak:
    """Clients of one server."""

    def __init__(
        self,
        server: Server,
        kinds: list[str],
        count: int,
        seed: int,
        *,
        siege: bool = False,
        looks: int = LOOKS,
        most: int = 0,
    ) -> None:
        self.siege, self.looks, self.most = siege, looks, most
        self.server, self.process, self.rng = server, psutil.Process(server.pid), random.Random(seed)
        self.cases = [(KINDS[name], number) for name in kinds for number in range(count)]
        self.truth: dict[tuple[str, int], list[np.ndarray]] = {}
        self.report = Report()

    def request(self, case: Case) -> tuple[bytes, dict[str, str]]:
        kind, number = case
        fields = kind.fields | {"precision": "fp32"}
        data, content_type = body(pictures()[number], fields, multipart=self.rng.random() < 0.5)
        return data, headers(content_type)

    async def ask(self, client: httpx.AsyncClient, case: Case) -> None:
        """Ask for all of an answer and check it."""
        data, sent = self.request(case)
        response = await client.post(case[0].path, content=data, headers=sent)
        self.report.outcomes[f"status {response.status_code}"] += 1
        if response.status_code != 200:
            if response.status_code != 429 or "retry-after" not in response.headers:
                self.report.violations.append(f"{case[0].path}: {response.status_code} {response.text[:300]}")
            return
        share = difference(values(response.json()), self.truth[case[0].path, case[1]])
        self.report.worst = max(self.report.worst, share)
        if not share <= TOLERANCE:
            self.report.violations.append(f"{case[0].path}, picture {case[1]}: wrong by {share:.1e}")

    async def cancel(self, client: httpx.AsyncClient, case: Case) -> None:
        """Hang up while the answer is awaited."""
        with suppress(TimeoutError):
            data, sent = self.request(case)
            async with asyncio.timeout(self.rng.random() * 0.2):
                await client.post(case[0].path, content=data, headers=sent)
        self.report.outcomes["hung up waiting"] += 1

    async def events(self, client: httpx.AsyncClient, case: Case) -> None:
        """Hang up in the middle of events."""
        data, sent = self.request(case)
        accept = {"accept": "text/event-stream"}
        async with client.stream("POST", case[0].path, content=data, headers=sent | accept) as response:
            async for _ in response.aiter_lines():
                break
        self.report.outcomes["hung up on events"] += 1

    async def half(self, client: httpx.AsyncClient, case: Case) -> None:
        """Hang up while sending."""
        data, sent = self.request(case)
        address = urlsplit(self.server.url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        head = f"POST {case[0].path} HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-length: {len(data)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        writer.write(head.encode() + b"\r\n" + data[: len(data) // 2])
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self.report.outcomes["hung up sending"] += 1

    async def load(self, seconds: float, clients: int, *, siege: bool = False) -> None:
        """Ask for a while."""
        ends = time.monotonic() + seconds

        async def watch() -> None:
            while True:
                self.report.memory_mib.append(self.process.memory_info().rss / 2**20)
                await asyncio.sleep(1)

        async def besiege() -> None:
            while siege:
                async with attacking(self.server.url, BURST_S) as told:
                    self.report.outcomes["answers to attackers"] += sum(
                        sum(got.values()) for got in (await told).values()
                    )
                await asyncio.sleep(EVERY_S - BURST_S)

        async def one(client: httpx.AsyncClient) -> None:
            while time.monotonic() < ends:
                act = self.rng.choices((self.ask, self.cancel, self.events, self.half), (16, 2, 1, 1))[0]
                case = self.rng.choice(self.cases)
                explained = [c for c in self.cases if c[0].path != "/predict"] or [case]
                try:
                    await act(client, self.rng.choice(explained) if act == self.events else case)
                except httpx.TransportError as error:
                    if not self.siege:  # where connections that rest give way to others
                        raise
                    self.report.outcomes[type(error).__name__] += 1

        watching, besieging = asyncio.create_task(watch()), asyncio.create_task(besiege())
        async with self.client() as client:
            await asyncio.gather(*(one(client) for _ in range(clients)))
        watching.cancel()
        besieging.cancel()
        with suppress(asyncio.CancelledError):
            await besieging  # until the attackers have ended

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.server.url, timeout=300, limits=httpx.Limits(max_connections=None))

    async def crowds(self) -> None:
        """Ask for each kind by crowds of every size: the libraries behind keep something for each size of a batch."""
        async with self.client() as client:
            for path in dict.fromkeys(kind.path for kind, _ in self.cases):
                own = [case for case in self.cases if case[0].path == path]
                for count in range(1, self.most + 1):
                    await asyncio.gather(*(self.ask(client, case) for case in (own * count)[:count]))

    async def rest(self, clients: int) -> Idle:
        """Return what is held at rest; of memory the least of several looks."""
        looks = [await self.idle()]
        for _ in range(self.looks - 1):
            await self.load(BETWEEN_S, clients)
            looks.append(await self.idle())
        least = min(looks, key=lambda one: one.rss_mib)
        return replace(looks[-1], rss_mib=least.rss_mib, heap_mib=least.heap_mib, code_mib=least.code_mib)

    async def idle(self) -> Idle:
        """Wait until nothing waits any more, and see what is held."""
        for _ in range(200):
            async with self.client() as client:
                samples = metrics((await client.get("/metrics", headers=headers("text/plain"))).text)
            waiting = samples["heatlens_requests_waiting"] + samples["heatlens_passes_waiting"]
            if not waiting:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(5)  # until connections are closed on the other side, too, and freed memory is given back
        memory = self.process.memory_info().rss / 2**20
        mapped: Counter[str] = Counter()
        for one in self.process.memory_maps(grouped=True):
            mapped["/" if one.path.startswith("/") else one.path] += one.rss / 2**20
        kept = samples["heatlens_cache_bytes"] / 2**20
        return Idle(
            round(memory, 1),
            round(mapped["[heap]"], 1),
            round(mapped["/"], 1),
            round(kept, 1),
            self.process.num_threads(),
            self.process.num_fds(),
            waiting,
        )

    async def run(self, seconds: float, warm_up_s: float, clients: int, max_growth: float) -> Report:
        """Find the truth, warm up, load, and compare."""
        async with self.client() as client:
            for case in self.cases:
                data, sent = self.request(case)
                answer = (await client.post(case[0].path, content=data, headers=sent)).raise_for_status().json()
                self.truth[case[0].path, case[1]] = values(answer)
            # All threads of the pool come up at the first crowd.
            await asyncio.gather(*(self.ask(client, case) for case in (self.cases * 64)[:96]))
        await self.crowds()
        await self.load(warm_up_s, clients, siege=self.siege)
        before = self.report.before = await self.rest(clients)
        await self.load(seconds, clients, siege=self.siege)
        after = self.report.after = await self.rest(clients)
        growth = after.rss_mib / before.rss_mib - 1
        if growth > max_growth:
            self.report.violations.append(f"memory grew by {growth:.1%}")
        # A worker's first parallel operation may bring a helper of OpenMP's; a leak would be one a request.
        if after.threads > before.threads + 8 or after.files > before.files or after.waiting:
            self.report.violations.append(f"left over: {after}, {before} before")
        self.report.violations += [f"logged: {line[:300]}" for line in self.server.complaints]
        return self.report


def main() -> int:
    """Run, print, and say with the exit status whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.soak")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--kinds", default="predict,grad-cam,saliency,feature-maps,deconvnet,occlusion")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-growth", type=float, default=0.03)
    parser.add_argument("--crowds", type=int, default=16, help="the largest of those that it begins with")
    parser.add_argument("--siege", action="store_true", help="beside attackers, in bursts")
    parser.add_argument("--serve", default="", help="options of `heatlens serve`")
    options = parser.parse_args()
    # A measurement would change batch sizes on the way; kept outputs would spare the server its work.
    with serving(*options.serve.split(), HEATLENS_TUNE="false", HEATLENS_SCORE_CACHE_MIB="4") as server:
        soak = Soak(
            server, options.kinds.split(","), options.pictures, options.seed, siege=options.siege, most=options.crowds
        )
        seconds = options.minutes * 60
        report = asyncio.run(soak.run(seconds, max(10, seconds * 0.2), options.clients, options.max_growth))
    print(report.table())
    return bool(report.violations)


if __name__ == "__main__":
    sys.exit(main())

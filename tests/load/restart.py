"""A server that is stopped under load, and started again: `python -m tests.load.restart`.

First it is asked to finish (SIGTERM): whatever was sent before has to be answered. Then it is killed (SIGKILL), and
started again on the same port: it has to be ready soon, and right. Exit status 1 says that something was lost, wrong or
late.
"""

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import httpx

from tests.load.traffic import LEAN, MIXES, Server, body, draw, headers, pictures, serving

LOST = 0  # the status of what was not answered
SURELY_READ_S = 1.0  # what was sent so long before the signal had been let in or turned away by then


@dataclass
class Sent:
    """One request: when it left, how it ended."""

    at: float
    status: int
    retry_after: bool


class Crowd:
    """Clients that ask one server, each on a connection of its own for each request."""

    def __init__(self, server: Server, mix: str, clients: int) -> None:
        self.server, self.mix, self.clients, self.rng = server, mix, clients, random.Random(0)
        self.sent: list[Sent] = []
        self.stopped = False

    async def _one(self, session: aiohttp.ClientSession) -> None:
        _, kind, image, multipart = draw(self.mix, self.rng)
        data, content_type = body(image, kind.fields, multipart=multipart)
        at, status, retry_after = time.monotonic(), LOST, False
        try:
            async with session.post(kind.path, data=data, headers=headers(content_type)) as response:
                await response.read()
                status, retry_after = response.status, "retry-after" in response.headers
        except (aiohttp.ClientError, TimeoutError):
            pass
        self.sent.append(Sent(at, status, retry_after))
        if status != 200:
            await asyncio.sleep(0.1)  # or turning them away would take all of the machine

    async def until(self, seconds: float, sign: signal.Signals, patience_s: float) -> tuple[float, float]:
        """Ask for a while, then send the signal and go on; return when it was sent, and how long the server lived."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        patience = aiohttp.ClientTimeout(total=patience_s)
        async with aiohttp.ClientSession(self.server.url, connector=connector, timeout=patience) as session:

            async def client() -> None:
                while not self.stopped:
                    await self._one(session)

            clients = [asyncio.create_task(client()) for _ in range(self.clients)]
            await asyncio.sleep(seconds)
            signalled = time.monotonic()
            self.server.process.send_signal(sign)
            try:
                await asyncio.to_thread(self.server.process.wait, patience_s)
            except subprocess.TimeoutExpired:
                self.server.process.kill()
            lived = time.monotonic() - signalled
            self.stopped = True
            await asyncio.gather(*clients)
        return signalled, lived


def finishing(mix: str, clients: int, seconds: float) -> list[str]:
    """Stop a server politely; return what went wrong."""
    with serving(HEATLENS_TUNE="false", HEATLENS_SCORE_CACHE_MIB="0") as server:
        crowd = Crowd(server, mix, clients)
        signalled, lived = asyncio.run(crowd.until(seconds, signal.SIGTERM, 60))
        complaints = server.complaints
    before, after = ([s for s in crowd.sent if (s.at <= signalled) is early] for early in (True, False))
    counts = [Counter(sent.status for sent in group) for group in (before, after)]
    print(f"SIGTERM beside {clients} clients: ended after {lived:.2f} s with status {server.process.returncode}")
    for when, count in zip(("before", "after"), counts, strict=True):
        statuses = ", ".join(f"{status or 'not connected'}: {n}" for status, n in sorted(count.items()))
        print(f"  sent {when} the signal: {statuses}")
    wrong = [
        f"sent {signalled - sent.at:.2f} s before the signal: {sent.status or 'lost'}"
        for sent in before
        if not (
            sent.status == 200
            or (sent.status == 429 and sent.retry_after)
            or (sent.status == 503 and sent.retry_after and sent.at > signalled - SURELY_READ_S)
        )
    ]
    wrong += [f"sent after the signal: {s.status}" for s in after if s.status not in (200, 429, 503, LOST)]
    if not any(sent.status == 200 for sent in before):
        wrong.append("nothing was answered before the signal")
    return [*wrong, *complaints, *(["the exit status is not 0"] if server.process.returncode else [])]


def _logits(url: str) -> list[float]:
    data, content_type = body(pictures()[0], {"output": LEAN, "precision": "fp32"}, multipart=True)
    answer = httpx.post(f"{url}/explain/grad-cam", content=data, headers=headers(content_type), timeout=60)
    return [p["logit"] for p in answer.raise_for_status().json()["predictions"]]


def killed(mix: str, clients: int, seconds: float, ready_s: float) -> list[str]:
    """Kill a server and start it again; return what went wrong."""
    with serving() as server:
        expected = _logits(server.url)
        asyncio.run(Crowd(server, mix, clients).until(seconds, signal.SIGKILL, 60))
    started = time.monotonic()
    with serving(port=urlsplit(server.url).port or 0) as server:
        took = time.monotonic() - started
        found, answered = _logits(server.url), time.monotonic() - started
        complaints = server.complaints
    print(f"SIGKILL beside {clients} clients, started again: ready after {took:.2f} s, answered after {answered:.2f} s")
    wrong = max(abs(a - b) for a, b in zip(expected, found, strict=True)) > 1e-4
    return [*complaints, *(["late"] if took > ready_s else []), *(["another answer than before"] if wrong else [])]


def main() -> int:
    """Run, print, and say with the exit status whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.restart")
    parser.add_argument("--mix", choices=MIXES, default="mixed")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10, help="of load before the signal")
    parser.add_argument("--ready", type=float, default=15, help="seconds that a start may take")
    options = parser.parse_args()
    wrong = finishing(options.mix, options.clients, options.seconds)
    wrong += killed(options.mix, options.clients, options.seconds, options.ready)
    print("\n".join(f"VIOLATION {text}" for text in wrong) or "all well")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

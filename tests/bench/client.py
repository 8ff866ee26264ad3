"""Our own client: what many requests in flight bring over one at a time, and whether that leaves a core idle."""

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from service.client import Client
from service.client.errors import HeatlensError
from tests.bench.measure import Options, Row
from tests.bench.server import serving
from tests.bench.subject import Subject, pictures

IN_FLIGHT = 16
METHODS = {"grad-cam": {}, "occlusion": {"window": 64, "stride": 32}}
BUSY = 0.9  # of all cores: more in flight could bring nothing then
_TICKS = os.sysconf("SC_CLK_TCK")


def _processor_s(pid: int) -> float:
    """Return the processor time that a process has taken, with all its threads."""
    words = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / _TICKS


def run(options: Options, folder: Path) -> Iterator[Row]:
    """Explain many pictures by `explain_many`, with few and many in flight in turn, each round with all of them."""
    subject, cores = Subject(options.model, folder), len(os.sched_getaffinity(0))
    count = options.pick(2 * IN_FLIGHT, 6 * IN_FLIGHT)
    with serving("ours", subject, options.device) as server, Client(server.url, timeout_s=900) as client:
        for method, params in METHODS.items():
            rates: dict[int, list[float]] = {1: [], IN_FLIGHT: []}
            busy: dict[int, list[float]] = {1: [], IN_FLIGHT: []}
            for number in range(options.rounds + 1):  # the first one warms up
                for in_flight in rates:
                    sent = pictures(count)  # new ones: what was kept of one would answer the next
                    watched = (server.process.pid, os.getpid())
                    before = sum(map(_processor_s, watched))
                    started = time.perf_counter()
                    for _, found in client.explain_many(method, sent, concurrency=in_flight, **params):
                        if isinstance(found, HeatlensError):
                            raise found
                    seconds = time.perf_counter() - started
                    if number:
                        rates[in_flight].append(len(sent) / seconds)
                        busy[in_flight].append((sum(map(_processor_s, watched)) - before) / seconds / cores)
            shares = {n: statistics.median(found) for n, found in busy.items()}
            yield Row(
                "client",
                f"{method} by our client, {IN_FLIGHT} in flight ({shares[IN_FLIGHT]:.0%} of {cores} cores)",
                statistics.median(rates[IN_FLIGHT]),
                "requests/s",
                f"one at a time ({shares[1]:.0%})",
                statistics.median(rates[1]),
                statistics.median(x / y for x, y in zip(rates[IN_FLIGHT], rates[1], strict=True)),
                aim=f"1.3x, or {BUSY:.0%} of all cores",
                rounds={"ours": rates[IN_FLIGHT], "one at a time": rates[1]},
                facts={"busy": {str(n): found for n, found in busy.items()}},
            )

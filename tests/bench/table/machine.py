"""Rows of servers against the machine: the same rows in the fastest plain loop."""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import torch

from tests.bench.incremental import fastest, seconds
from tests.bench.measure import Options
from tests.bench.served import Served
from tests.bench.subject import EMBEDDED, Subject, pictures
from tests.bench.table.line import Asked, Line
from tests.bench.table.peers import CPU, FULL, environment, served, subject

WAVES = 4


def steady(server: Served, path: str, clients: int, waves: int, fields: dict[str, Any]) -> tuple[float, float]:
    """Return rows a second, and rows a processor second of the server, between the first wave and the last one.

    Each client asks for another picture once it is answered.
    """
    waiting = iter(pictures(clients * waves))
    done: list[tuple[float, float, int]] = []  # when, the server's processor time, rows

    async def one(http: httpx.AsyncClient) -> None:
        for image in waiting:
            response = await http.post(path, data={"request": json.dumps(fields)}, files={"image": ("p.jpg", image)})
            response.raise_for_status()
            done.append((time.perf_counter(), server.processor_s(), response.json()["usage"]["forwards"]))

    async def everyone() -> None:
        limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
        async with httpx.AsyncClient(base_url=server.url, timeout=1800, limits=limits) as http:
            await asyncio.gather(*(one(http) for _ in range(clients)))

    asyncio.run(everyone())
    first, last = clients - 1, len(done) - clients - 1
    rows = sum(rows for *_, rows in done[first + 1 : last + 1])
    return rows / (done[last][0] - done[first][0]), rows / (done[last][1] - done[first][1])


def clients(asked: Asked) -> Iterator[Line]:
    """Score-CAM of 8 and 32 clients, settled and with the runtimes, over the ceiling's loop."""
    from tests.bench.ceiling import Ceiling
    from tests.bench.load import narrow
    from tests.bench.subject import ours

    if asked.extras is not None:
        sys.path.insert(0, str(asked.extras))  # the ceiling's runtimes
    of = subject(asked, EMBEDDED)
    settings = Options(asked.quick, CPU, asked.rounds, of.name)
    with ours(of, CPU, tune=False) as service:
        layer = narrow(settings, service.facts)
    fields = FULL | {"params": {"layer": layer}, "timeout_s": 1800}
    with served(asked, of, asked.folder / f"{of.name}-extras", **environment(asked, extras=True)) as server:
        server.settled()
        answer, *_ = server.explain("score-cam", pictures(1)[0], **fields)
        ceiling = Ceiling(settings, of, layer, answer["usage"]["dtype"])
        span = settings.pick(32, 256)
        for many in (2,) if asked.quick else (8, 32):
            rates, limits, processor = [], [], []
            for _ in range(asked.rounds):
                limits.append(ceiling.measure(span))
                before = time.process_time()
                limit = ceiling.measure(span)
                spent = (span + ceiling.setting.batch) / (time.process_time() - before)
                rate, own = steady(server, "/explain/score-cam", many, WAVES, fields)
                limits[-1] = statistics.mean((limits[-1], limit))
                rates.append(rate)
                processor.append(own / spent)
            yield Line(
                f"rows/s of {many} Score-CAM clients, settled, {of.name} {layer}",
                f"{statistics.median(rates):.1f} rows/s ({answer['usage']['runtime']})",
                f"the machine: {ceiling.best}, {statistics.median(limits):.1f} rows/s"
                + "".join(f"; {name} beside it, {rate:.1f}" for name, rate in ceiling.beside.items())
                + "".join(f"; without {name}: {why}" for name, why in ceiling.problems.items()),
                [rate / limit for rate, limit in zip(rates, limits, strict=True)],
                processor,
                0.92,
                facts={"tried": ceiling.tried},
            )


def vgg16(asked: Asked) -> Iterator[Line]:
    """Occlusion of VGG-16 by a fresh server, its first request, over plain rows of the fastest copy and batch."""
    from service.engine.network.variants import candidates
    from service.process import ALL_THREADS, keep_freed_memory, use_threads

    keep_freed_memory()
    use_threads(ALL_THREADS)
    of: Subject = subject(asked, "vgg16")
    x = of.input(pictures(1)[0])
    module = of.plain(CPU).requires_grad_(False)
    windows = {4: None, 8: None} if asked.quick else {16: 5.0, 32: 4.0}
    stride = min(windows)
    with torch.inference_mode():
        variant, batch = fastest(candidates(module, x, "fp32"), x, 8)
        for window, aim in windows.items():
            ratios, by_processor, ours, plain = [], [], [], []
            for number, image in enumerate(pictures(asked.rounds)):
                with served(asked, of, asked.folder / f"vgg-{window}-{number}") as server:
                    square = {"window": window, "stride": stride}
                    answer, took, processor = server.explain("occlusion", image, **FULL, params=square)
                rows, stack = answer["usage"]["forwards"], x.repeat(batch, 1, 1, 1)
                before = time.process_time()
                times = [seconds(partial(variant, stack)) / batch for _ in range(max(2, 16 // batch))]
                plain.append(min(times))
                ours.append(took / rows)
                ratios.append(plain[-1] / ours[-1])
                by_processor.append((time.process_time() - before) / len(times) / batch / (processor / rows))
            yield Line(
                f"occlusion of a fresh server, {of.name}, window {window}, stride {stride}, a row",
                f"{statistics.median(ours) * 1e3:.1f} ms, incremental: {answer['usage']['incremental']}",
                f"plain rows, {variant.name} {batch}, {statistics.median(plain) * 1e3:.0f} ms",
                ratios,
                by_processor,
                aim,
            )


def certified(asked: Asked) -> Iterator[Line]:
    """Score-CAM within a bound: how many times fewer rows over crops of the package's photographs."""
    from tests.bench import certified

    of = subject(asked, EMBEDDED)
    settings = Options(asked.quick, CPU, asked.rounds, of.name)
    for row in certified.rows_of(settings, asked.folder, 2 if asked.quick else 50):
        aim = float(row.aim.split()[0]) if row.aim else None
        yield Line(row.name, row.failed or "none outside of its bound", "exact", row.rounds["ratios"], (), aim)

"""Many clients at once: throughput against the machine's ceiling and plain handlers, and who waits for whom."""

import asyncio
import itertools
import json
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from service.contract import Facts
from service.explainers.perturbation.occlusion import starts
from tests.bench.ceiling import Ceiling
from tests.bench.measure import Options, Row
from tests.bench.server import Server, serving
from tests.bench.subject import Subject, narrow_layer, ours, pictures
from tests.bench.wire import LEAN, explain

WINDOW, STRIDE = 32, 24  # of occlusion under load


@dataclass
class Load:
    """What a wave of requests came to."""

    seconds: float
    requests: int
    rows: int = 0
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def rows_rate(self) -> float:
        """Rows per second that really ran."""
        return self.rows / self.seconds


def wave(url: str, path: str, clients: int, requests: int, fields: dict[str, Any] | None = None) -> Load:
    """Send `requests` different pictures over `clients` connections that each ask again once answered."""
    waiting = iter(pictures(requests))
    answers: list[dict[str, Any]] = []

    async def one(http: httpx.AsyncClient) -> None:
        for image in waiting:
            files = {"image": ("picture.jpg", image, "image/jpeg")}
            if fields is not None:
                files["request"] = ("request.json", json.dumps(fields).encode(), "application/json")
            response = await http.post(path, files=files)
            response.raise_for_status()
            answers.append(response.json())

    async def everyone() -> float:
        limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
        async with httpx.AsyncClient(base_url=url, timeout=900, limits=limits) as http:
            started = time.perf_counter()
            await asyncio.gather(*(one(http) for _ in range(clients)))
            return time.perf_counter() - started

    seconds = asyncio.run(everyone())
    rows = sum(answer["usage"]["forwards"] for answer in answers if "usage" in answer)
    for answer in answers:
        answer.pop("maps", None), answer.pop("details", None)
    return Load(seconds, len(answers), rows, answers)


def narrow(options: Options, facts: Facts) -> str:
    """Return the layer that many clients ask about: one of few channels, so that a wave does not take minutes."""
    return narrow_layer(facts, options.pick(16, 96 if options.device.type == "cpu" else 2048))


def run(options: Options, folder: Path) -> Iterator[Row]:
    """Measure Score-CAM and occlusion at three levels of load, then Grad-CAM."""
    subject, device = Subject(options.model, folder), options.device
    with ours(subject, device, precision="fp32") as service:
        facts = service.facts
    layer = narrow(options, facts)
    default = facts.default_layer
    assert default is not None
    methods = ["pytorch-grad-cam score-cam", "torch-cam score-cam", "captum occlusion"]
    with serving("ours", subject, device) as server:
        square = {"window": WINDOW, "stride": STRIDE}
        with serving("plain", subject, device, layer=layer, methods=methods, **square) as plain:
            peers = [method.split()[0] for method in methods[:2]]
            params = {"layer": layer, "score": "logit", "interpolation": "bilinear-corners", "baseline": "none"}
            yield from _throughput(options, subject, facts, (server, plain), "score-cam", layer, params, peers)
            params = {"score": "logit", **square}
            yield from _throughput(options, subject, facts, (server, plain), "occlusion", layer, params, ["captum"])
        with serving("plain", subject, device, layer=default, methods=["pytorch-grad-cam grad-cam"]) as plain:
            yield from _grad_cam(options, server, plain)


def _throughput(
    options: Options,
    subject: Subject,
    facts: Facts,
    servers: tuple[Server, Server],
    kind: str,
    layer: str,
    params: dict[str, Any],
    peers: list[str],
) -> Iterator[Row]:
    server, plain = servers
    fields = {"params": params, "output": LEAN}
    yield from _against_ceiling(options, subject, facts, server, kind, layer, fields, (1, 8, 32))
    channels = facts.layers[layer].shape[0]
    what = f"{kind} {channels} channels" if kind == "score-cam" else kind
    for clients in options.pick((8,), (1, 8, 32)):
        rates: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
        for _ in range(1 if options.quick or clients == 32 else 2):
            rates["ours"].append(wave(server.url, f"/explain/{kind}", clients, max(clients, 4), fields).rate)
            for peer in peers:
                rates[peer].append(wave(plain.url, f"/explain/{peer}/{kind}", clients, max(clients, 2)).rate)
        for peer in peers:
            yield Row(
                "concurrency",
                f"{what}, {clients} clients",
                statistics.median(rates["ours"]),
                "requests/s",
                f"plain handler, {peer}, lock",
                statistics.median(rates[peer]),
                statistics.median(x / y for x, y in zip(rates["ours"], rates[peer], strict=True)),
                rounds={name: rates[name] for name in ("ours", peer)},
                facts={"layer": layer},
            )


def ceiling(options: Options, folder: Path) -> Iterator[Row]:
    """Hold Score-CAM as users ask for it, of the last layer in the precision that was chosen, against the machine."""
    subject = Subject(options.model, folder)
    with ours(subject, options.device) as service:
        facts = service.facts
    assert facts.default_layer is not None
    single = replace(options, rounds=1)
    with serving("ours", subject, options.device) as server:
        fields = {"output": LEAN, "timeout_s": 1800}
        args = (server, "score-cam", facts.default_layer, fields, (8, 32))
        yield from _against_ceiling(single, subject, facts, *args)


def _against_ceiling(
    options: Options,
    subject: Subject,
    facts: Facts,
    server: Server,
    kind: str,
    layer: str,
    fields: dict[str, Any],
    levels: tuple[int, ...],
) -> Iterator[Row]:
    path = f"/explain/{kind}"
    dtype = wave(server.url, path, 1, 1, fields).answers[0]["usage"]["dtype"]
    ceiling = Ceiling(options, subject, layer if kind == "score-cam" else (WINDOW, STRIDE), dtype)
    channels = facts.layers[layer].shape[0]
    what = f"{kind} {channels} channels" if kind == "score-cam" else kind
    shared = {"layer": layer, "dtype": dtype, "ceiling": ceiling.tried | ceiling.beside, "best": ceiling.best}
    rounds = min(options.rounds, 3)
    span = options.pick(32, 128 if options.device.type == "cpu" else 4096)
    for clients in levels:
        loads: list[Load] = []
        before_after: list[float] = [ceiling.measure(span)]
        for _ in range(rounds):
            loads.append(wave(server.url, path, clients, max(clients, 4), fields))
            before_after.append(ceiling.measure(span))
        around = [(a + b) / 2 for a, b in itertools.pairwise(before_after)]
        row = Row(
            "concurrency",
            f"{what}, {clients} clients, rows that ran",
            statistics.median(load.rows_rate for load in loads),
            "rows/s",
            f"ceiling {ceiling.best}",
            statistics.median(before_after),
            statistics.median(load.rows_rate / limit for load, limit in zip(loads, around, strict=True)),
            aim="0.95x" if clients > 1 else "",
            facts=shared | {"usage": [answer["usage"] for load in loads for answer in load.answers[:2]]},
        )
        row.rounds = {"ours": [load.rows_rate for load in loads], "ceiling": before_after}
        yield row


def _grad_cam(options: Options, server: Server, plain: Server) -> Iterator[Row]:
    count = options.pick(32, 96)
    for clients in (1, 32):
        mine, theirs = [], []
        for number in range(options.rounds + 1):  # the first one warms up
            a = wave(server.url, "/explain/grad-cam", clients, count, {"output": {"heatmap": False}}).rate
            b = wave(plain.url, "/explain/pytorch-grad-cam/grad-cam", clients, count).rate
            if number:
                mine.append(a)
                theirs.append(b)
        row = Row(
            "concurrency",
            f"grad-cam with overlay and array, {clients} clients",
            statistics.median(mine),
            "requests/s",
            "plain handler, pytorch-grad-cam, lock",
            statistics.median(theirs),
            statistics.median(x / y for x, y in zip(mine, theirs, strict=True)),
            aim="3x" if clients > 1 else "",
        )
        row.rounds = {"ours": mine, "plain": theirs}
        yield row


# One small request among eight large ones


def square_of_rows(size: int) -> tuple[int, int]:
    """Return the window and stride of which a picture of a size has about 2,048 positions."""
    squares = itertools.product(range(size // 4, size // 8, -1), range(1, size // 8))
    return min(squares, key=lambda square: abs(len(starts(size, *square)) ** 2 - 2048))


def mixed(options: Options, folder: Path) -> Iterator[Row]:
    """Time /predict while eight jobs of about 2,048 rows each are under way, in units of a batch."""
    subject = Subject(options.model, folder)
    seconds = options.pick(3.0, 20.0 if options.device.type == "cpu" else 10.0)
    size = subject.spec.transform.crop[0]
    window, stride = square_of_rows(size)
    rows = len(starts(size, window, stride)) ** 2
    with serving("ours", subject, options.device) as server, server.client() as client:
        alone = predict(client, options.pick(10, 30))[1:]
        batches = [batch_ms(client, window)]
        stop = threading.Event()
        clients = [threading.Thread(target=large, args=(server.url, window, stride, seconds, stop)) for _ in range(8)]
        for thread in clients:
            thread.start()
        try:
            time.sleep(seconds / 10)  # until the queue is theirs
            busy = predict(client, 10_000, until=time.monotonic() + seconds * 0.8)
        finally:
            stop.set()
            for thread in clients:
                thread.join()
        batches.append(batch_ms(client, window))
        batch = statistics.mean(batches)
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            value = sorted(busy)[min(len(busy) - 1, int(share * len(busy)))]
            yield Row(
                "mixed",
                f"predict {name} behind eight jobs of {rows} rows ({len(busy)} asked)",
                value,
                "ms",
                "one batch",
                batch,
                value / batch,
                aim="under 3 batches" if name == "p99" else "",
                rounds={"ours": busy, "one batch": batches, "alone": alone},
            )
        yield Row("mixed", "predict p50 alone", statistics.median(alone), "ms")


def predict(client: httpx.Client, count: int, until: float = float("inf")) -> list[float]:
    """Return the milliseconds of so many predictions, one after the other, or of those until a moment."""
    took = []
    for image in (picture for _ in range(count) for picture in pictures(1)):
        started = time.perf_counter()
        client.post("/predict", files={"image": ("p.jpg", image, "image/jpeg")}).raise_for_status()
        took.append((time.perf_counter() - started) * 1e3)
        if time.monotonic() > until:
            break
    return took


def batch_ms(client: httpx.Client, window: int) -> float:
    """Return the time of one full batch as the server counts it, ms."""
    params = {"window": window, "stride": max(1, window // 4)}
    usage = explain(client, "occlusion", pictures(1)[0], params=params, output=LEAN)["usage"]
    return float(usage["device_ms"] / usage["forwards"] * usage["batch_rows_mean"])


def large(url: str, window: int, stride: int, seconds: float, stop: threading.Event) -> None:
    """Ask for one large job after the other; hang up on the last one."""
    ends = time.monotonic() + seconds
    with httpx.Client(base_url=url, timeout=900) as client:
        while not stop.is_set() and (left := ends - time.monotonic()) > 0:
            request = {"params": {"window": window, "stride": stride}, "output": LEAN, "timeout_s": 300}
            files = {
                "image": ("p.jpg", pictures(1)[0], "image/jpeg"),
                "request": (None, json.dumps(request), "application/json"),
            }
            try:
                client.post("/explain/occlusion", files=files, timeout=left).raise_for_status()
            except httpx.TimeoutException:
                return

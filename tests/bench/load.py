"""Many clients at once: throughput against the machine's ceiling and plain handlers, and who waits for whom."""

import asyncio
import copy
import itertools
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from service.contract import Facts
from service.explainers.cam.masking.masks import min_max
from service.explainers.perturbation.occlusion import starts
from service.process import ALL_THREADS, use_threads
from tests import oracles
from tests.bench.measure import Options, Row, synchronise
from tests.bench.server import Server, serving
from tests.bench.subject import Subject, narrow_layer, ours, pictures
from tests.bench.wire import LEAN, explain

WINDOW, STRIDE = 32, 24  # of occlusion under load
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def folded(model: nn.Module, x: Tensor) -> nn.Module:
    """Fold batch norms into the convolutions that feed them, in place; found by following one forward's tensors."""
    names = {module: name for name, module in model.named_modules()}
    made: dict[int, nn.Module] = {}
    kept: list[Tensor] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.BatchNorm2d) and isinstance(made.get(id(inputs[0])), nn.Conv2d):
            pairs.append((made[id(inputs[0])], module))
        made[id(output)] = module
        kept.append(output)

    leaves = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    handles = [module.register_forward_hook(watch) for module in leaves]
    with torch.no_grad():
        before = model(x)
        for handle in handles:
            handle.remove()
        for conv, norm in pairs:
            for old, new in ((conv, fuse_conv_bn_eval(conv, norm)), (norm, nn.Identity())):
                parent, _, leaf = names[old].rpartition(".")
                setattr(model.get_submodule(parent), leaf, new)
        if oracles.relative_error(model(x).cpu(), before.cpu()) > 1e-3:
            raise RuntimeError("folding changed the network")
    return model


class Ceiling:
    """The masked forwards of one picture in a plain loop, as fast as this machine does them.

    The best of: rows a batch, memory formats, batch norm folded, in the precision that the server reports.
    """

    def __init__(self, options: Options, subject: Subject, kind: str, layer: str, dtype: str) -> None:
        self.device = options.device
        use_threads(ALL_THREADS)  # no device thread works in this process
        x = subject.input(pictures(1)[0]).to(self.device)
        self.x = x
        plain = subject.plain(self.device).requires_grad_(False)
        self.rows = self._masked(plain, layer) if kind == "score-cam" else self._occluded()
        self.count = 0
        self.tried: dict[str, float] = {}
        networks = {"plain": plain, "folded": folded(copy.deepcopy(plain), x)}
        formats = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
        batches = options.pick((8, 32), (8, 16, 32, 64) if self.device.type == "cpu" else (32, 64, 128, 256, 512))
        best = 0.0
        kinds = itertools.product({"float32", dtype} & DTYPES.keys(), networks.items(), formats.items())
        for kind_, (name, network), (order, memory) in kinds:
            candidate = copy.deepcopy(network).to(dtype=DTYPES[kind_], memory_format=memory)
            for batch in batches:
                rate = self._rate(candidate, memory, batch, max(2 * batch, options.pick(16, 64)))
                self.tried[f"{name} {order} {batch} {kind_}"] = rate
                if rate > best:
                    best, self.best = rate, f"{name} {order} {batch} {kind_}"
                    self.network, self.memory, self.batch = candidate, memory, batch

    def _masked(self, plain: nn.Module, layer: str) -> Callable[[int, int], Tensor]:
        a = oracles.layer_output(plain, self.x, layer)[0]
        size = self.x.shape[2:]

        def rows(i: int, j: int) -> Tensor:
            masks = a[[k % len(a) for k in range(i, j)]]
            return self.x * min_max(F.interpolate(masks[:, None], size, mode="bilinear")[:, 0])[:, None]

        return rows

    def _occluded(self) -> Callable[[int, int], Tensor]:
        side = self.x.shape[2]
        places = list(itertools.product(starts(side, WINDOW, STRIDE), repeat=2))

        def rows(i: int, j: int) -> Tensor:
            built = self.x.repeat(j - i, 1, 1, 1)
            for row in range(i, j):
                y, x = places[row % len(places)]
                built[row - i, :, y : y + WINDOW, x : x + WINDOW] = 0
            return built

        return rows

    @torch.inference_mode()
    def _rate(self, network: nn.Module, memory: torch.memory_format, batch: int, count: int) -> float:
        def forward(i: int) -> None:
            network(self.rows(i, i + batch).to(dtype).contiguous(memory_format=memory))

        dtype = next(network.parameters()).dtype

        forward(0)
        synchronise(self.device)
        started = time.perf_counter()
        for i in range(0, count, batch):
            forward(i)
        synchronise(self.device)
        return -(-count // batch) * batch / (time.perf_counter() - started)

    def measure(self, count: int) -> float:
        """Return the rows per second over `count` rows of the best loop."""
        return self._rate(self.network, self.memory, self.batch, count)


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


def run(options: Options, folder: Path) -> Iterator[Row]:
    """Measure Score-CAM and occlusion at three levels of load, then Grad-CAM."""
    subject, device = Subject(options.model, folder), options.device
    with ours(subject, device, precision="fp32") as service:
        facts = service.facts
    layer = narrow_layer(facts, options.pick(16, 96 if device.type == "cpu" else 2048))
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
    ceiling = Ceiling(options, subject, kind, layer, dtype)
    channels = facts.layers[layer].shape[0]
    what = f"{kind} {channels} channels" if kind == "score-cam" else kind
    shared = {"layer": layer, "dtype": dtype, "ceiling": ceiling.tried, "best": ceiling.best}
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


def mixed(options: Options, folder: Path) -> Iterator[Row]:
    """Time /predict while eight jobs of about 2,048 rows each are under way, in units of a batch."""
    subject = Subject(options.model, folder)
    seconds = options.pick(3.0, 20.0 if options.device.type == "cpu" else 10.0)
    size = subject.spec.transform.crop[0]
    squares = itertools.product(range(size // 4, size // 8, -1), range(1, size // 8))
    window, stride = min(squares, key=lambda square: abs(len(starts(size, *square)) ** 2 - 2048))
    rows = len(starts(size, window, stride)) ** 2
    with serving("ours", subject, options.device) as server, server.client() as client:
        alone = _predict(client, options.pick(10, 30))[1:]
        batches = [_batch_ms(client, window)]
        stop = threading.Event()
        clients = [threading.Thread(target=_large, args=(server, window, stride, seconds, stop)) for _ in range(8)]
        for thread in clients:
            thread.start()
        try:
            time.sleep(seconds / 10)  # until the queue is theirs
            busy = _predict(client, 10_000, until=time.monotonic() + seconds * 0.8)
        finally:
            stop.set()
            for thread in clients:
                thread.join()
        batches.append(_batch_ms(client, window))
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


def _predict(client: httpx.Client, count: int, until: float = float("inf")) -> list[float]:
    took = []
    for image in (picture for _ in range(count) for picture in pictures(1)):
        started = time.perf_counter()
        client.post("/predict", files={"image": ("p.jpg", image, "image/jpeg")}).raise_for_status()
        took.append((time.perf_counter() - started) * 1e3)
        if time.monotonic() > until:
            break
    return took


def _batch_ms(client: httpx.Client, window: int) -> float:
    """Return the time of one full batch as the server counts it, ms."""
    params = {"window": window, "stride": max(1, window // 4)}
    usage = explain(client, "occlusion", pictures(1)[0], params=params, output=LEAN)["usage"]
    return float(usage["device_ms"] / usage["forwards"] * usage["batch_rows_mean"])


def _large(server: Server, window: int, stride: int, seconds: float, stop: threading.Event) -> None:
    """Ask for one large job after the other; hang up on the last one."""
    ends = time.monotonic() + seconds
    with server.client() as client:
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

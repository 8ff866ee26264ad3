"""Over HTTP, one client: Grad-CAM against a library call, where the time goes, and what a second target costs."""

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch

from service.api import formats
from service.ask import Ask
from service.engine.scheduler.run import Run
from service.explainers.base import method
from tests.bench import peers
from tests.bench.measure import Options, Row, against, agreement, alternate, disagreement
from tests.bench.server import Server, serving
from tests.bench.subject import Ours, Subject, narrow_layer, ours, pictures

LEAN = {"heatmap": False, "overlay": False, "array": "base64"}


def explain(client: httpx.Client, name: str, image: bytes, **fields: Any) -> dict[str, Any]:
    """Ask our server for one explanation."""
    files = {"image": ("picture.jpg", image, "image/jpeg"), "request": (None, json.dumps(fields), "application/json")}
    response = client.post(f"/explain/{name}", files=files)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def run(options: Options, folder: Path) -> Iterator[Row]:
    """Measure Grad-CAM over HTTP, and its parts."""
    subject, device = Subject(options.model, folder), options.device
    count = options.pick(4, 6 * options.rounds)
    with serving("ours", subject, device, precision="fp32") as server, server.client() as client:
        with ours(subject, device, precision="fp32") as service:
            layer = service.facts.default_layer
            assert layer is not None
            plain = peers.pytorch_grad_cam("GradCAM", subject.plain(device), layer, None)
            data = pictures(count + 1)
            inputs = {image: subject.input(image).to(device) for image in data}
            answers: list[dict[str, Any]] = []

            def over_http(image: bytes) -> Any:
                answers.append(explain(client, "grad-cam", image, output={"array": "json"}))
                return answers[-1]["maps"][0]["array"]["data"]

            contestants = {
                "ours": over_http,
                "pytorch-grad-cam": lambda image: plain(inputs[image]),
            }
            rounds = alternate(contestants, data, device)
            name = f"grad-cam over HTTP, JPEG to PNGs and JSON, {subject.name}"
            row = against("http", name, rounds, "pytorch-grad-cam", aim="1x")
            maps = [torch.tensor(found) for found in rounds.results["ours"]]
            row.agreement = agreement(maps, rounds.results["pytorch-grad-cam"])
            row.failed = disagreement(row.agreement, relative=options.tolerance(1e-4)) or None
            yield row
            yield from _split(rounds.median("ours") * 1e3, [answer["usage"] for answer in answers[1:]])
            yield from _parts(service, data[1:])
        yield _first_byte(client, pictures(count))


def _split(total: float, usages: list[dict[str, Any]]) -> Iterator[Row]:
    """Say what the server reports of its own time; the rest is decoding, encoding and the wire."""
    left = total
    for key in [key for key in usages[0] if key.endswith("_ms")]:
        values = [float(usage[key]) for usage in usages]
        left -= statistics.median(values)
        yield Row("http", f"grad-cam, usage.{key}", statistics.median(values), "ms", rounds={"ours": values})
    yield Row("http", "grad-cam, not in usage", left, "ms")


def _parts(service: Ours, data: list[bytes]) -> Iterator[Row]:
    """Time decoding, the whole pipeline and encoding in this process, without a server."""
    seconds: dict[str, list[float]] = {"decode, resize, normalise": [], "pipeline": [], "encode JSON": []}
    for image in data:
        started = time.perf_counter()
        service.subject.input(image)
        decoded = time.perf_counter()
        pipeline = service.context.pipeline
        plan = pipeline.plan(Ask(method("grad-cam")(), pictures=(image,)))
        answer = pipeline.work(plan, Run(), formats.JSON.needs)
        explained = time.perf_counter()
        formats.JSON.encode(answer)
        encoded = time.perf_counter()
        for name, took in zip(seconds, (decoded - started, explained - decoded, encoded - explained), strict=True):
            seconds[name].append(took * 1e3)
    for name, values in seconds.items():
        yield Row("http", f"grad-cam in process, {name}", statistics.median(values), "ms", rounds={"ours": values})


def _first_byte(client: httpx.Client, data: list[bytes]) -> Row:
    first, last = [], []
    for image in data:
        started = time.perf_counter()
        with client.stream("POST", "/explain/grad-cam", files={"image": ("p.jpg", image, "image/jpeg")}) as response:
            chunks = response.iter_bytes()
            next(chunks)
            first.append((time.perf_counter() - started) * 1e3)
            for _ in chunks:
                pass
        last.append((time.perf_counter() - started) * 1e3)
    median = statistics.median
    row = Row("http", "grad-cam, first byte (held against the last)", median(first), "ms", "last byte", median(last))
    row.rounds = {"ours": first, "last byte": last}
    return row


def second_target(options: Options, folder: Path) -> Iterator[Row]:
    """Ask for two targets at once, and for another target of a picture seen before; in shares of the first."""
    subject, device = Subject(options.model, folder), options.device
    with ours(subject, device, precision="fp32") as service:
        layer = narrow_layer(service.facts, options.channels or options.pick(16, 400))
    with serving("ours", subject, device, precision="fp32") as server, server.client() as client:
        for name, params in (("score-cam", {"layer": layer}), ("occlusion", {})):
            asked: dict[str, list[Spent]] = {"one": [], "another": [], "two": []}
            _ask(server, client, name, params, pictures(1)[0], [1])
            for first, other in zip(pictures(options.rounds), pictures(options.rounds), strict=True):
                for key, image, targets in (("one", first, [1]), ("another", first, [2]), ("two", other, [1, 2])):
                    asked[key].append(_ask(server, client, name, params, image, targets))
            # The first of two targets is paid for at the price of a row that the single target had. Processor time,
            # where it is the processor that works, is blind to what else the machine does; it is counted in 10 ms.
            long = min(spent.cpu_ms for spent in asked["one"]) > 500
            cost = "cpu_ms" if device.type == "cpu" and long else "wall_ms"
            two = []
            for one, both in zip(asked["one"], asked["two"], strict=True):
                single = getattr(one, cost)
                first_share = single / max(1, one.usage["forwards"]) * both.usage["forwards"]
                two.append((getattr(both, cost) - first_share) / single)
            another = [b.wall_ms / a.wall_ms for a, b in zip(asked["one"], asked["another"], strict=True)]
            extra = "processor time" if cost == "cpu_ms" else "time"
            rounds = {f"{key} ms": [spent.wall_ms for spent in found] for key, found in asked.items()}
            rounds |= {f"{key} cpu ms": [spent.cpu_ms for spent in found] for key, found in asked.items()}
            facts = {"params": params, "usage": {key: [spent.usage for spent in found] for key, found in asked.items()}}
            for what, shares in (
                (f"second target in one request, {extra}", two),
                ("another target, picture seen, time", another),
            ):
                yield Row(
                    "second-target",
                    f"{name}, {what} over the first target's",
                    statistics.median(shares) * 100,
                    "%",
                    aim="under 2 %",
                    rounds={"ours": [share * 100 for share in shares], **rounds},
                    facts=facts,
                )


@dataclass
class Spent:
    """What one request took."""

    wall_ms: float
    cpu_ms: float  # of the server's process
    usage: dict[str, Any]


def _ask(
    server: Server, client: httpx.Client, name: str, params: dict[str, Any], image: bytes, targets: list[int]
) -> Spent:
    process = psutil.Process(server.process.pid)
    before, started = process.cpu_times(), time.perf_counter()
    answer = explain(client, name, image, params=params, targets=targets, output=LEAN)
    wall, after = time.perf_counter() - started, process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return Spent(wall * 1e3, spent * 1e3, answer["usage"])

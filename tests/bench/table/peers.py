"""Servers against libraries that people call themselves: in processes of their own, given our allocator's setting.

A fresh server is started for each round, and its first request after it is ready is timed; meanwhile it proves and
measures, as it does for its users. A settled one has measured before. What is compared of Score-CAM are rows a second:
what a server leaves out, as constant and equal masks, is told by `savings`.
"""

import importlib.resources
import statistics
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.bench import peers
from tests.bench.served import Served
from tests.bench.subject import EMBEDDED, Subject, pictures
from tests.bench.table.line import Asked, Line

CPU = torch.device("cpu")
WINDOW, STRIDE = 32, 16
FULL = {"precision": "fp32", "output": {"heatmap": False, "overlay": False, "array": "base64"}}
SCORE_CAM = ("pytorch-grad-cam", "torch-cam")


@dataclass
class Spent:
    """Seconds of one request."""

    wall: float
    processor: float


def environment(asked: Asked, *, extras: bool = False) -> dict[str, str]:
    """Return the variables that let a server find the runtimes, where they are asked for."""
    return {"PYTHONPATH": str(asked.extras)} if extras and asked.extras is not None else {}


def subject(asked: Asked, name: str) -> Subject:
    """Return a network; a tiny one where the instrument is tried."""
    return Subject("tiny" if asked.quick else name, asked.folder)


def options(of: Subject) -> dict[str, Any]:
    """Return what a server takes to serve a network."""
    variables = {"HEATLENS_CATALOG": str(of.catalog)} if of.catalog is not None else {}
    return {"models": (of.option,), "environment": variables}


def served(asked: Asked, of: Subject, folder: Path, **others: str) -> Served:
    """Start a server of one network."""
    given = options(of)
    return Served(folder, given["models"], environment=given["environment"] | others)


def layer_of(asked: Asked, server: Served, name: str) -> tuple[str, int]:
    """Return the layer of a model that Score-CAM is of, and how many channels it has."""
    known = server.client.get(f"/models/{name}/layers").json()["layers"]
    if asked.channels is None:
        layer = server.client.get(f"/models/{name}").json()["default_layer"]
    else:  # module containers and their last child are one tensor: any of their names will do
        plain = [one for one in known if one["spatial"] and not {"#", "+"} & set(one["path"])]
        layer = [one["path"] for one in plain if 1 < one["shape"][0] <= asked.channels and one["shape"][1] > 1][-1]
    return layer, next(one["shape"][0] for one in known if one["path"] == layer)


class Libraries:
    """Peers of one method, each in a process of its own, with our allocator's setting or as they come."""

    def __init__(self, of: Subject, method: str, layer: str, *, keep_memory: bool) -> None:
        self.called: dict[str, peers.Apart] = {}
        plain = of.plain(CPU)
        if method == "occlusion":
            square = square_of(of)
            self.called["captum"] = peers.Apart(peers.captum_occlusion, plain, None, *square, keep_memory=keep_memory)
            return
        for name, make in zip(SCORE_CAM, (peers.pytorch_grad_cam, peers.torchcam), strict=True):
            self.called[name] = peers.Apart(make, "ScoreCAM", plain, layer, None, keep_memory=keep_memory)

    def spent(self, x: Tensor) -> dict[str, Spent]:
        """Explain an input by each; return what it took."""
        found = {}
        for name, call in self.called.items():
            call(x)
            found[name] = Spent(call.seconds, call.processor_s)
        return found

    def close(self) -> None:
        """End their processes."""
        for call in self.called.values():
            call.close()


def square_of(of: Subject) -> tuple[int, int]:
    """Return window and stride of occlusion."""
    return (WINDOW, STRIDE) if of.spec.transform.crop[0] >= 64 else (8, 4)


def fields_of(of: Subject, method: str) -> dict[str, Any]:
    """Return the fields of a request."""
    window, stride = square_of(of)
    return {**FULL, **({"params": {"window": window, "stride": stride}} if method == "occlusion" else {})}


def race(
    asked: Asked, name: str, method: str, aim: float | None, *, fresh: bool, extras: bool = False
) -> Iterator[Line]:
    """Race a server against the peers of a method; the fastest one of each round counts."""
    of = subject(asked, name)
    fields = fields_of(of, method)
    ours: list[Spent] = []
    theirs: list[Mapping[str, Spent]] = []
    usages: list[dict[str, Any]] = []
    with ExitStack() as stack:
        keep = asked.folder / f"{name}-{'extras' if extras else 'plain'}"
        variables = environment(asked, extras=extras)
        resting = None
        if fresh:  # one that is not timed tells the layer, and lets the system read the files once
            with served(asked, of, asked.folder / "first", **variables) as first:
                layer, channels = layer_of(asked, first, of.name)
        else:
            resting = stack.enter_context(served(asked, of, keep, **variables))
            resting.settled()
            layer, channels = layer_of(asked, resting, of.name)
            resting.explain(method, pictures(1)[0], **fields)
        if method == "score-cam":
            fields["params"] = {"layer": layer}
        libraries = Libraries(of, method, layer, keep_memory=True)
        stack.callback(libraries.close)
        if method != "score-cam":  # whose first call costs milliseconds more, of many seconds
            libraries.spent(of.input(pictures(1)[0]))
        for number, image in enumerate(pictures(asked.rounds)):
            if resting is None:
                with served(asked, of, asked.folder / f"{name}-{method}-{number}", **variables) as server:
                    answer, *took = server.explain(method, image, **fields)
            else:
                answer, *took = resting.explain(method, image, **fields)
            ours.append(Spent(*took))
            usages.append(answer["usage"])
            theirs.append(libraries.spent(of.input(image)))
    rows = [usage["forwards"] for usage in usages]
    scale = [(channels + 1) / own if method == "score-cam" else 1.0 for own in rows]  # peers run every channel
    by_clock, by_processor = (
        [
            min(getattr(one, kind) for one in their.values()) / (getattr(own, kind) * share)
            for own, their, share in zip(ours, theirs, scale, strict=True)
        ]
        for kind in ("wall", "processor")
    )
    fastest = min(theirs[0], key=lambda peer: statistics.median(their[peer].wall for their in theirs))
    state = ("fresh" if fresh else "settled") + (", with a runtime" if extras else "")
    what = "rows/s" if method == "score-cam" else "whole request"
    yield Line(
        f"{method} of a {state} server, {what}, {of.name}",
        f"{rows[0]} rows, {statistics.median(one.wall for one in ours):.2f} s ({usages[-1]['runtime']})",
        f"{fastest} with our allocator's setting, {statistics.median(their[fastest].wall for their in theirs):.2f} s",
        by_clock,
        by_processor,
        aim,
        facts={"usage": usages, "peers": [{k: vars(v) for k, v in their.items()} for their in theirs]},
    )


def savings(asked: Asked) -> Iterator[Line]:
    """Whole requests of the package's photographs against the peers, and the passes that are spared."""
    of = subject(asked, EMBEDDED)
    files = sorted((importlib.resources.files("service") / "photographs").iterdir(), key=lambda file: file.name)
    images = [file.read_bytes() for file in files][: 1 if asked.quick else None]
    with ExitStack() as stack:
        server = stack.enter_context(served(asked, of, asked.folder / f"{EMBEDDED}-plain"))
        server.settled()
        layer, channels = layer_of(asked, server, of.name)
        ours, spared = [], []
        for image in images:
            answer, *took = server.explain("score-cam", image, **FULL, params={"layer": layer})
            ours.append(Spent(*took))
            spared.append(answer["usage"]["rows_avoided"] / channels)
        server.close()
        for keep in (True, False):
            libraries = Libraries(of, "score-cam", layer, keep_memory=keep)
            theirs = [libraries.spent(of.input(image)) for image in images]
            libraries.close()
            how = "with our allocator's setting" if keep else "as it comes"
            for peer in SCORE_CAM:
                yield Line(
                    f"score-cam of the package's photographs, whole request, {of.name}",
                    f"{', '.join(f'{share:.0%}' for share in spared)} of the passes spared",
                    f"{peer} {how}",
                    [their[peer].wall / own.wall for own, their in zip(ours, theirs, strict=True)],
                    [their[peer].processor / own.processor for own, their in zip(ours, theirs, strict=True)],
                )

"""Every method against its oracle, through the HTTP server: `python -m tests.parity [METHOD ...] [--size 224]`.

A row for each method and network: the largest difference over the largest expected value, what the method's test
tolerates, and what the truth was, a plain loop (the `oracle` of the method's test) or another library (its `PEERS`).
Where a method does not apply, the row has the server's reason. The test suite does the same at 64 px.
"""

import argparse
import base64
import copy
import functools
import importlib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import torch
from annotated_types import Ge
from PIL import Image
from pydantic.fields import FieldInfo
from torch import Tensor, nn

from service.explainers.base import Explainer, identifier, registry
from service.explainers.cam.masking.masks import MaskedCAM
from service.models.sources.embedded import EMBEDDED
from service.process import ALL_THREADS, use_threads
from service.settings import Settings
from tests import oracles
from tests.conftest import encoded, photograph, serving
from tests.oracles import Case, Peer
from tests.transformers import Vision

NETWORKS = ("efficientnet-lite0", "resnet18", "vgg16_bn", "densenet121", "lesion-count")
TRANSFORMER = "transformer"  # for the methods that read attention: what other oracles look at are convolutions' maps
MOST_CHANNELS = 96  # of the layer that methods look at whose cost grows with it, or that a blank picture has to wake
# Of what a method would do by the dozen; where its least is more, that.
FEW: Mapping[str, Any] = {
    "cells": 3,
    "channels": [1],
    "count": 8,
    "designs": 2,
    "evaluations": 2,
    "masks": 2,
    "samples": 2,
    "smooth_samples": 2,
    "steps": 2,
}
TARGET = 281
BY_POSITION = ("recipro-cam",)  # their oracle takes a forward for each position of the layer
TOLERANCE = 2e-5  # a hundred layers' rounding; a method's test may name more


@functools.cache
def plain(name: str) -> nn.Module:
    """Return a network: an embedded one with its weights, or one of torchvision with seeded random ones."""
    if name == TRANSFORMER:
        return Vision("fused", size=64, width=32, heads=4, depth=3)
    network = EMBEDDED[name]().build([]) if name in EMBEDDED else oracles.network(name, size=64)
    return network.eval().requires_grad_(False)


def made(name: str) -> nn.Module:
    """Return a copy of a network, for the server to load."""
    return copy.deepcopy(plain(name))


@contextmanager
def server(size: int, names: Sequence[str] = NETWORKS) -> Iterator[httpx.Client]:
    """Serve the networks on inputs of a size, each row computed anew and in full precision."""
    for name in names:
        plain(name)  # the server's patience is for loading alone
    with tempfile.TemporaryDirectory() as folder:
        catalog = Path(folder) / "catalog.toml"
        for name in names:
            source = f'source = "{name}"' if name in EMBEDDED else 'factory = "tests.parity:made"'
            given = "" if name in EMBEDDED else f'\narguments = {{ name = "{name}" }}'
            with catalog.open("a") as file:
                file.write(f'[models."{name}"]\n{source}{given}\ninput_size = {size}\nresize = {size}\n\n')
        settings = Settings(catalog=catalog, device="cpu", score_cache_mib=0, precision="fp32", default_timeout_s=3600)
        with serving(settings, patience_s=600) as client:  # five networks, beside whatever else runs
            client.timeout = settings.default_timeout_s
            yield client


def its_test(name: str) -> ModuleType:
    """Return a method's test, which has its oracle."""
    family = registry()[name].family
    return importlib.import_module(f"tests.explainers.{family}.test_{identifier(name)}")


def least(field: FieldInfo) -> list[int]:
    """Return a parameter's lower bound, in a list; an empty one where it has none."""
    return [bound.ge for bound in field.metadata if isinstance(bound, Ge)]


def few(method: type[Explainer]) -> dict[str, Any]:
    """Return parameters that let a method do as little as it can by the dozen."""
    fields = method.model_fields
    return {name: max([value, *least(fields[name])]) for name, value in FEW.items() if name in fields}


@dataclass(frozen=True)
class Answer:
    """One row: what was found, what is true, or why there is nothing to compare."""

    method: str
    network: str
    truth: str  # `loop`, or a library's name
    layer: str = ""
    error: float = float("nan")
    tolerance: float = TOLERANCE
    refusal: str = ""
    seconds: float = 0.0


class Subject:
    """One network behind a server, and the same network here."""

    def __init__(self, client: httpx.Client, name: str, size: int) -> None:
        self.client, self.name = client, name
        self.facts = client.get(f"/models/{name}").raise_for_status().json()
        self.layers = client.get(f"/models/{name}/layers").raise_for_status().json()["layers"]
        picture = photograph("chelsea").crop((75, 0, 375, 300)).resize((size, size), Image.Resampling.BICUBIC)
        self.image = encoded(picture)
        pixels = torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)[None]
        self.mean, self.std = (tuple(self.facts["input"][key]) for key in ("mean", "std"))
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        self.x = ((pixels - mean) / std).contiguous()

    def narrow_layer(self) -> str:
        """Return the last layer with few channels: a method by masks is quick on it."""
        narrow = [layer for layer in self.layers if layer["spatial"] and layer["shape"][0] <= MOST_CHANNELS]
        return [layer["path"] for layer in narrow if not {"#", "+"} & {*layer["path"]}][-1]

    def case(self, method: type[Explainer], *, narrow: bool = True) -> Case:
        """Return what to ask of a method: as little as shows that it is right."""
        fields = method.model_fields
        layer = self.facts["default_layer"]
        if "layer" not in fields and "layers" not in fields:
            pass  # it looks at the whole network, or at its head
        elif method.name in BY_POSITION:
            layer = layer.partition("+")[0]  # whose positions are few, however many its channels
        elif narrow or issubclass(method, MaskedCAM) or not method.needs_image:
            layer = self.narrow_layer()
        else:
            layer = layer.partition("+")[0]  # as a module, which peers can address
        chosen = {"layer": layer, "layers": [layer]}
        params = few(method) | {name: value for name, value in chosen.items() if name in fields}
        target = min(TARGET, self.facts["outputs"] - 1)
        if self.facts["task"] == "regression":
            target = 0
            params |= {"score": "value"} if "score" in fields else {}
        return Case(plain(self.name), self.x, layer, target, params, self.mean, self.std)

    def ask(self, method: type[Explainer], case: Case) -> httpx.Response:
        """Ask for a case over HTTP."""
        image = {"image": base64.b64encode(self.image).decode()} if method.needs_image else {}
        classes = self.facts["task"] == "classification"
        targets = {"targets": [case.target]} if method.takes_targets and classes else {}
        output = {"array": "base64", "heatmap": False, "overlay": False}
        body = {"model": self.name, "params": case.params, "output": output, "precision": "fp32", **image, **targets}
        return self.client.post(f"/explain/{method.name}", json=body)

    def found(self, method: type[Explainer], case: Case) -> Tensor:
        """Return the raw array of the first map."""
        response = self.ask(method, case)
        assert response.status_code == 200, response.text
        array = response.json()["maps"][0]["array"]
        values = np.frombuffer(base64.b64decode(array["data"]), "<f4").reshape(array["shape"])
        return torch.from_numpy(values.copy())

    def compare(self, method: type[Explainer], *, narrow: bool = True, peers: bool = False) -> Iterator[Answer]:
        """Hold a method against its loop and, where asked for, against the libraries that agree with it."""
        case, test = self.case(method, narrow=narrow), its_test(method.name)
        own = test.tolerance(case) if hasattr(test, "tolerance") else getattr(test, "TOLERANCE", 0)
        # Other libraries see modules, and not what a function makes of their outputs.
        named: Mapping[str, Peer] = getattr(test, "PEERS", {}) if peers and "+" not in case.layer else {}
        for truth, peer in {"loop": Peer(test.oracle), **named}.items():
            conventions = {**case.params, **peer.params}
            if case.params.get("score") == "value":
                conventions["score"] = "value"  # a regression has no other, whatever a library calls it
            asked = replace(case, params=conventions)
            started = time.perf_counter()
            found = self.found(method, asked)
            use_threads(ALL_THREADS)  # as the device's thread: a loop that is cut otherwise rounds otherwise
            error = oracles.relative_error(found, peer.call(asked))
            seconds = time.perf_counter() - started
            yield Answer(method.name, self.name, truth, case.layer, error, max(own, TOLERANCE), seconds=seconds)

    def reason(self, method: type[Explainer]) -> str | None:
        """Return why a method does not apply, as the server says beforehand."""
        return next(use["reason"] for use in self.facts["methods"] if use["name"] == method.name)


def main() -> None:
    """Print the table; exit with 1 where an error is beyond its tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", help="default: all")
    parser.add_argument("--size", type=int, default=224, help="side of the input, pixels")
    parser.add_argument(
        "--network", action="append", choices=(*NETWORKS, TRANSFORMER), help="default: all; may be repeated"
    )
    parser.add_argument("--narrow", action="store_true", help="let all methods look at a layer of few channels")
    options = parser.parse_args()
    names = options.network or (*NETWORKS, TRANSFORMER)
    methods = [registry()[name] for name in options.methods or registry()]
    beyond = 0
    print("| method | network | layer | truth | error | tolerance | s |\n| --- | --- | --- | --- | --- | --- | --- |")
    with server(options.size, names) as client:
        for name in names:
            subject = Subject(client, name, options.size)
            for method in methods:
                if name == TRANSFORMER and method.family != "attention":
                    continue
                if (reason := subject.reason(method)) is not None:
                    print(f"| {method.name} | {name} | | refused: {reason} | | | |")
                    continue
                for row in subject.compare(method, narrow=options.narrow, peers=True):
                    beyond += not row.error <= row.tolerance
                    print(
                        f"| {row.method} | {row.network} | {row.layer} | {row.truth} | {row.error:.1e} | "
                        f"{row.tolerance:.0e} | {row.seconds:.1f} |",
                        flush=True,
                    )
    sys.exit(f"{beyond} beyond their tolerance" if beyond else 0)


if __name__ == "__main__":
    # The server's copies are of the networks of the module `tests.parity`, which this file is not when it is run.
    importlib.import_module("tests.parity").main()

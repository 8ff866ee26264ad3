"""One network behind a server, by its source alone, held against its library and against the methods' truths."""

from __future__ import annotations

import base64
import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from torch import Tensor

from service.app import create_app
from service.engine.store import Store
from service.errors import CatalogError
from service.explainers.base import Explainer, registry
from service.images import prepare, to_input
from service.models.catalogue import requested
from service.process import ALL_THREADS, use_threads
from service.settings import Settings
from tests import oracles
from tests.conftest import encoded, photograph, serving_app
from tests.oracles import Case
from tests.parity import few, its_test
from tests.zoo import truths
from tests.zoo.networks import Network
from tests.zoo.truths import TAP, Place, Tapped

AT_THE_INPUT = 2e-2  # of gradients there, likewise
TOLERANCE = 1e-3  # of the largest value: random networks are deep, and their gates near
_LEVEL = 0.004  # one level of 255
BUDGET_S = 12.0  # of a method: its own passes, and the oracle's
_FEW = 20  # passes that are always made
# Methods whose oracles follow modules of known kinds, and sums of parts, of which a layer has many. Every other method
# is tried on the whole zoo; these are asked by `--methods`.
FOLLOWING = {
    "attention-relevance",
    "attn-lrp",
    "deep-lift",
    "excitation-backprop",
    "feature-factorisation",
    "full-grad",
    "lrp",
}
TRIED = tuple(name for name in registry() if name not in FOLLOWING)


@dataclass
class Answer:
    """What came of one method.

    `=` right, `0` right and zero everywhere, `-` refused and rightly so, `.` not asked because it takes too long;
    and the faults: `!` wrong, `x` refused for a reason that is not true, `E` failed.
    """

    mark: str
    layer: str | None = None
    error: float | None = None
    tolerance: float | None = None
    reason: str | None = None
    seconds: float = 0.0


@dataclass
class Found:
    """What came of one network; faults are sentences."""

    network: str
    task: str | None = None
    layer: str | None = None
    layout: str | None = None
    shape: tuple[int, ...] = ()
    right_layer: bool = False
    grids: int = 0
    methods: dict[str, Answer] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    load_s: float | None = None
    seconds: float = 0.0

    @property
    def loaded(self) -> bool:
        return self.load_s is not None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(values: Mapping[str, Any]) -> Found:
        methods = {name: Answer(**answer) for name, answer in values["methods"].items()}
        return Found(**{**values, "methods": methods, "shape": tuple(values["shape"])})


@contextmanager
def served(network: Network, folder: Path) -> Iterator[tuple[httpx.Client, Store]]:
    """Serve a network alone, by its source with no other key."""
    settings = Settings(
        model=(network.of.source(network, folder),),
        device="cpu",
        precision="fp32",
        score_cache_mib=0,
        tune=False,
        default_timeout_s=600,
    )
    app = create_app(settings)
    with serving_app(app, settings.default_timeout_s) as client:
        client.timeout = settings.default_timeout_s
        yield client, app.state.context.store


def held(network: Network, folder: Path, budget_s: float = BUDGET_S, only: str | None = None) -> Found:
    """Hold a network against its library and its methods against their truths.

    Args:
        network: which one.
        folder: where folders of transformers are, or are written to.
        budget_s: how long a method and its oracle may take.
        only: a regular expression over methods; default: those of `TRIED`.
    """
    started, found = time.perf_counter(), Found(network.id)
    use_threads(ALL_THREADS)  # as the device: forwards that are cut otherwise round otherwise
    try:
        requested((network.of.source(network, folder),), None)
    except CatalogError as error:
        found.faults.append(f"does not load: {error}")
        return found
    with served(network, folder) as (client, store):
        entry = store.entry(None)
        if entry.model is None:
            found.faults.append(f"does not load: {entry.error}")
        else:
            found.load_s = entry.load_s
            Holding(network, folder, client, store, found, budget_s).hold(only)
    found.seconds = time.perf_counter() - started
    return found


class Holding:
    """A network behind a server, and the library's own with the same weights."""

    def __init__(
        self, network: Network, folder: Path, client: httpx.Client, store: Store, found: Found, budget_s: float
    ) -> None:
        self.network, self.folder, self.client, self.found, self.budget_s = network, folder, client, found, budget_s
        entry = store.entry(None)
        assert entry.model is not None
        self.spec, self.facts, self.name = entry.spec, entry.model.facts, entry.spec.name
        self.info = client.get(f"/models/{self.name}").raise_for_status().json()
        self.layers = client.get(f"/models/{self.name}/layers").raise_for_status().json()["layers"]
        self.plain = truths.weighted(network.of.plain(network, folder), entry.model.module.state_dict())
        self.pictures = [photograph("chelsea"), photograph("astronaut")]
        self.inputs = [to_input(prepare(p, self.spec.transform), self.spec.transform) for p in self.pictures]
        self.x = self.inputs[0]
        with torch.no_grad():
            outputs = Tapped(self.plain)(self.x)
            began = time.perf_counter()
            other = Tapped(self.plain)(self.inputs[1])
        self.forward_s = time.perf_counter() - began
        self.like = other[0] if self.embeds else None
        self.target = 0 if self.embeds else int(outputs.argmax())
        self.least = 0 if self.embeds else int(outputs.argmin())
        self.outputs = outputs[0]

    @property
    def embeds(self) -> bool:
        return self.facts.task.name == "embedding"

    def hold(self, only: str | None = None) -> None:
        """Look at everything; what is not as it should be goes to `found.faults`."""
        self._task_and_labels()
        self._preprocessing()
        self._outputs()
        self._layers()
        for name, method in registry().items():
            if name in TRIED if only is None else re.search(only, name):
                began = time.perf_counter()
                answer = self.found.methods[name] = self._method(method)
                answer.seconds = time.perf_counter() - began
                if answer.mark in "!xE":
                    self.found.faults.append(f"{name}: {answer.reason or f'off by {answer.error:.1e}'}")

    def _fault(self, text: str) -> None:
        self.found.faults.append(text)

    # What the library says

    def _task_and_labels(self) -> None:
        labels = self.network.of.labels(self.network, self.folder)
        self.found.task = self.info["task"]
        expected = "classification" if labels else "embedding"
        if self.info["task"] != expected or self.info["task_assumed"]:
            self._fault(f"task is {self.info['task']} (assumed: {self.info['task_assumed']}), and is {expected}")
        if tuple(self.spec.labels) != labels:
            self._fault(f"labels: {self.spec.labels[:3]} ..., and are {labels[:3]} ...")
        self.found.warnings = [
            f"{check['name']}: {check['found']}" for check in self.info["checks"] if check["outcome"] != "passed"
        ]

    def _preprocessing(self) -> None:
        if self.info["input"]["assumed"]:
            self._fault(f"preprocessing is assumed: {self.info['input']['assumed']}")
        for picture, ours in zip(self.pictures, self.inputs, strict=True):
            theirs = self.network.of.input_of(self.network, self.folder, picture)
            if theirs.shape != ours.shape:
                self._fault(f"input is {tuple(ours.shape[1:])}, and is {tuple(theirs.shape[1:])}")
                return
            off = float((ours - theirs).abs().mean()) / max(1 / value for value in self.spec.transform.std)
            if off > _LEVEL:
                self._fault(f"input is off by {off:.3f} of its range: {self.info['input']}")

    @functools.cached_property
    def _sent(self) -> list[str]:
        """The pictures as they are sent: to pack one takes longer than most of what is asked about it."""
        return [base64.b64encode(encoded(picture)).decode() for picture in self.pictures]

    def _outputs(self) -> None:
        """Hold the predictions against the library's own network."""
        sent = {"image": self._sent[0], "model": self.name, "top_k": 3}
        response = self.client.post("/predict", json=sent)
        if response.status_code != 200:
            self._fault(f"predict answers {response.status_code}: {response.text[:300]}")
            return
        best = response.json()["predictions"][0]
        if self.embeds:
            right = abs(best["norm"] / float(self.outputs.norm()) - 1) < 1e-3
        else:
            p = float(self.outputs.softmax(0)[self.target])
            label = self.network.of.labels(self.network, self.folder)[self.target]
            right = best["index"] == self.target and abs(best["probability"] - p) < 1e-3 and best["label"] == label
        if not right:
            self._fault(f"predicts {best}, and says {self.target} with {float(self.outputs[self.target]):.4g}")

    # Layers

    def _layers(self) -> None:
        found, default = self.found, self.facts.default_layer
        spatial = [layer for layer in self.layers if layer["spatial"]]
        found.grids, found.layer = len(spatial), default
        info = self.facts.layers.get(default or "")
        if info is not None:
            found.layout, found.shape = str(info.layout), info.shape
        found.right_layer = self.network.takes(default) and found.layout == self.network.layout
        if not found.right_layer:
            self._fault(
                f"default layer is {default} ({found.layout}), and is {self.network.layer} ({self.network.layout})"
            )
        self._shapes(spatial)

    def _shapes(self, spatial: list[dict[str, Any]]) -> None:
        """Hold what is said of layers against what the library's own network answers there."""
        met: dict[str, list[Tensor]] = {}
        convolutions: dict[str, tuple[int, ...]] = {}

        def keeping(path: str) -> Callable[..., None]:
            def keep(module: torch.nn.Module, _: object, output: Any) -> None:
                first = output[0] if isinstance(output, tuple) and output else output
                if isinstance(first, Tensor):
                    met.setdefault(path, []).append(first)
                    if isinstance(module, torch.nn.Conv2d) and first[0, 0].numel() > 1:
                        convolutions[path] = tuple(first.shape[1:])

            return keep

        hooks = [m.register_forward_hook(keeping(path)) for path, m in self.plain.named_modules() if path]
        with torch.no_grad():
            self.plain(self.x)
        for hook in hooks:
            hook.remove()
        for layer in spatial:
            if layer["path"].endswith("+relu"):
                continue
            place = Place.of(layer["path"], layer["layout"], tuple(layer["shape"]))
            outputs = met.get(place.path, [])
            if len(outputs) < place.call:
                self._fault(f"layer {layer['path']!r} does not answer")
            elif tuple(place.maps(outputs[place.call - 1]).shape[1:]) != tuple(layer["shape"]):
                self._fault(f"layer {layer['path']!r} is said to be {layer['shape']} {layer['layout']}")
        offered = {layer["path"].partition("#")[0] for layer in spatial}
        if missing := [path for path in convolutions if path not in offered]:
            self.found.warnings.append(f"{len(missing)} convolutions without maps, such as {missing[-1]!r}")

    # Methods

    def _method(self, method: type[Explainer]) -> Answer:
        reason = next(use["reason"] for use in self.info["methods"] if use["name"] == method.name)
        try:
            if reason is not None:
                return Answer("-" if self._true(reason) else "x", reason=reason)
            return self._compared(method)
        except Exception as error:
            return Answer("E", reason=f"{type(error).__name__}: {str(error)[:300]}")

    def _compared(self, method: type[Explainer], *, again: bool = True) -> Answer:
        if (layer := self._layer(method)) == "":
            return Answer(".", reason="it takes too long")
        if layer is None and method.family != "attention":
            place = None
        else:
            seen = layer or self.facts.default_layer or ""
            info = self.facts.layers[seen.partition("+")[0] if seen not in self.facts.layers else seen]
            place = Place.of(seen, str(info.layout), info.shape)
        # An oracle that paints pictures paints them in red, green and blue.
        turned = self.facts.channels == "bgr" and not method.needs_image
        tapped = Tapped(self.plain, place, self.like, turned=turned)
        params = self._params(method, layer)
        if "channels" in params and place is not None:
            grey = (0.5 - torch.tensor(self.spec.transform.statistics)[0]) / torch.tensor(
                self.spec.transform.statistics
            )[1]
            channel = truths.alive(tapped, grey.view(1, -1, 1, 1).expand_as(self.x))
            if channel is None and method.name == "filters":
                return Answer(
                    ".", layer, reason="a blank picture moves no channel of it: there is nothing to hold it to"
                )
            params["channels"] = [channel or 0]
        named = {"layer": TAP, "layers": [TAP]}
        known = {name: named.get(name, value) for name, value in params.items()}
        mean, std = (numbers[::-1] if turned else numbers for numbers in self.spec.transform.statistics)
        case = Case(tapped, self.x, TAP if place else "", self.target, known, mean, std)
        found = self._asked(method, params)
        if isinstance(found, str):
            return Answer("E", layer, reason=found)
        expected = truths.OWN.get(method.name, its_test(method.name).oracle)(case)
        if float(expected.abs().max()) == 0 and again:  # nothing speaks for it: then something speaks for the other end
            self.target, self.least = self.least, self.target
            return self._compared(method, again=False)
        if float(expected.abs().max()) == 0:
            return Answer("0" if float(found.abs().max()) == 0 else "!", layer, float(found.abs().max()), 0.0)
        test = its_test(method.name)
        own = test.tolerance(case) if hasattr(test, "tolerance") else getattr(test, "TOLERANCE", 0.0)
        # One gate near zero that rounding opens moves a gradient at the pixels by as much as a hundredth.
        least = AT_THE_INPUT if method.family == "gradient" and not place else TOLERANCE
        if method.name == "filters":  # which takes such a gradient
            least = AT_THE_INPUT
        error, tolerance = oracles.relative_error(found, expected), max(own, least)
        return Answer("=" if error <= tolerance else "!", layer, error, tolerance)

    def _params(self, method: type[Explainer], layer: str | None) -> dict[str, Any]:
        side = -(-max(self.x.shape[2:]) // 3)
        wanted = few(method) | {"window": side, "stride": side, "layer": layer, "layers": [layer], "relu": False}
        if self.embeds:
            wanted["score"] = "value"
        if method.name == "filters":
            # After a second step a deep network with random weights is half a picture away from itself where its memory
            # is laid out otherwise: so many gates are near zero. What several steps paint, its own test says.
            wanted["steps"] = 1
        return {name: value for name, value in wanted.items() if name in method.model_fields}

    def _layer(self, method: type[Explainer]) -> str | None:
        """Return the layer to ask about: the default one, or a cheaper one; None: it takes none; empty: none is cheap.

        What a ReLU makes of a layer is asked of the methods whose layer is fixed only.
        """
        if not {"layer", "layers"} & {*method.model_fields}:
            fixed = self.facts.head.layer if method.name in ("cam", "ram") and self.facts.head else None
            return fixed if fixed or self._affordable(method, None) else ""
        default = self.facts.default_layer or ""
        others = [p for p, i in self.facts.layers.items() if i.spatial and not {"#", "+"} & {*p}]
        narrow = sorted(others, key=lambda p: (self.facts.layers[p].shape[0], -others.index(p)))
        first = [default.partition("+")[0]] if default.partition("+")[0] in self.facts.layers else []
        for path in (*first, *narrow[:1]):
            if self._affordable(method, path):
                return path
        return ""

    def _affordable(self, method: type[Explainer], layer: str | None) -> bool:
        passes = method(**self._params(method, layer)).passes(self.facts, 1)
        return passes <= _FEW or 2 * passes * self.forward_s <= self.budget_s

    def _asked(self, method: type[Explainer], params: dict[str, Any]) -> Tensor | str:
        """Return the raw array of the first map, or what the server says."""
        body: dict[str, Any] = {"model": self.name, "params": params, "precision": "fp32"}
        body["output"] = {"array": "base64", "heatmap": False, "overlay": False}
        if method.needs_image:
            body["image"] = self._sent[0]
        if method.takes_targets:
            body["targets"] = [{"like": [0]}] if self.embeds else [self.target]
            if self.embeds:
                body["pictures"] = [self._sent[1]]
        response = self.client.post(f"/explain/{method.name}", json=body)
        if response.status_code != 200:
            return f"{response.status_code} {response.text[:300]}"
        array = response.json()["maps"][0]["array"]
        values = np.frombuffer(base64.b64decode(array["data"]), "<f4").reshape(array["shape"])
        return torch.from_numpy(values.copy())

    # Reasons

    def _true(self, reason: str) -> bool:
        """Whether a reason for a refusal is true; one that nothing here can tell is not."""
        return any(re.search(words, reason) and truth(self) for words, truth in _REASONS.items())

    @property
    def averages(self) -> list[str]:
        """The layers of whose averages the outputs are a linear map."""
        last = [(p, i) for p, i in self.facts.layers.items() if i.spatial and "+" not in p][-40:]
        places = {path: Place.of(path, str(info.layout), info.shape) for path, info in last}
        return truths.averages(Tapped(self.plain), self.x, places, self.target)

    @property
    def attends(self) -> bool:
        return truths.over_all_tokens(truths.attentions(Tapped(self.plain), self.x))

    @property
    def rectified(self) -> int:
        return truths.rectified_maps(Tapped(self.plain), self.x)


_REASONS: Mapping[str, Callable[[Holding], bool]] = {
    "needs a regression model": lambda one: one.facts.task.name == "classification",
    "needs outputs that are one number a class": lambda one: one.embeds,
    "needs global average pooling": lambda one: not one.averages,
    "needs outputs that are classes|compares classes": lambda one: one.embeds,
    "reads attention of all tokens to all tokens": lambda one: not one.attends,
    "has no ReLU": lambda one: one.rectified == 0 or one.network.attends,
}

"""One request from picture to answer, the same for HTTP and the command line."""

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from service import rendering
from service.contract import Explanation, Facts, Map, Prediction, Rows, Target, Targets
from service.engine.network.resident import Model
from service.engine.probe import ModelProbe
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.store import Store
from service.errors import InvalidParameter, NotApplicable
from service.explainers.base import Explainer, registry
from service.images import Picture, decode, prepare, to_input
from service.precision import DTYPES, Precision
from service.rendering import Drawing, Heat, OutputOptions
from service.settings import Settings

PREDICTIONS = 5
Wanted = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass
class Answer:
    """A finished request: the wire form, and the pieces of it that can be answered alone."""

    body: dict[str, Any]
    heats: list[Heat] = field(default_factory=list)
    picture: Picture | None = None
    output: OutputOptions = field(default_factory=OutputOptions)

    def image(self) -> bytes:
        """Return the first map as PNG: over the picture, where it can lie there."""
        return rendering.png(self.draw(0))

    def draw(self, i: int) -> Drawing:
        """Draw a map: over the picture, where it can lie there."""
        heat = self.heats[i]
        drawn = rendering.overlay(heat, self.picture, self.output) if self.picture else None
        return drawn or rendering.heatmap(heat, self.picture, self.output)

    def array(self) -> bytes:
        """Return the first raw array as `.npy`."""
        return rendering.npy(self.heats[0].array)


@dataclass(frozen=True)
class Plan:
    """A request that has been checked against its model: what will be done, and how many passes it will take."""

    explainer: Explainer
    model: Model
    targets: Targets
    precision: Precision
    passes: int


class Pipeline:
    """Decodes, asks the model, renders. Its methods block: call them from a worker thread."""

    def __init__(self, settings: Settings, store: Store, device: Device) -> None:
        self.settings, self.store, self.device = settings, store, device
        # As many pictures are decoded and drawn at a time as there are cores to do it: one at the limit takes 300 MB
        # meanwhile, and more threads would only take the device thread's turns.
        self._cores = threading.BoundedSemaphore(os.cpu_count() or 1)

    def plan(
        self,
        explainer: Explainer,
        *,
        model: str | None = None,
        targets: Sequence[int | str] | None = None,
        precision: Wanted | None = None,
    ) -> Plan:
        """Check a request against its model; quick, and before any picture is decoded.

        Raises:
            ServiceError: the model is not there, or the request does not fit it.
        """
        chosen = self.store.get(model)
        explainer.require(chosen.facts)
        wanted = self._targets(explainer, targets, chosen)
        used = self.precision(precision, chosen, tolerant=explainer.tolerates_reduced_precision())
        return Plan(explainer, chosen, wanted, used, explainer.passes(chosen.facts, len(wanted)))

    def precision(self, wanted: Wanted | None, model: Model, *, tolerant: bool) -> Precision:
        """Return the precision to send rows through a model in.

        Raises:
            InvalidParameter: the device does not have it.
        """
        wanted = wanted or self.settings.precision
        if wanted == "fp16" and model.device.type == "cpu":
            raise InvalidParameter.at("/precision", "fp16 needs a CUDA device; on a CPU use bf16, fp32 or auto")
        if wanted == "auto":
            return model.preferred if tolerant else "fp32"
        return wanted

    def explain(self, plan: Plan, *, image: bytes | None, output: OutputOptions, run: Run) -> Answer:
        """Explain one picture.

        Raises:
            ServiceError: whatever is wrong, by field.
        """
        explainer, chosen = plan.explainer, plan.model
        blank = torch.empty(0, 3, *chosen.facts.input_size, device=chosen.device)
        picture, x = self._input(image, chosen, run) if explainer.needs_image else (None, blank)

        def partial() -> list[dict[str, Any]] | None:
            rough = run.sketch() if run.sketch is not None else None
            return self._maps(rough, picture, output, chosen)[1] if rough is not None else None

        run.partial = partial
        with run.usage.stage("explain"):
            explanation = explainer.explain(ModelProbe(chosen, self.device, run, plan.precision), x, plan.targets)
        run.usage.avoided += explanation.avoided
        with self._cores, run.usage.stage("render"):
            heats, maps = self._maps(explanation, picture, output, chosen)
        body = {
            "id": run.id,
            "method": explainer.name,
            "model": _model(chosen),
            "params": explainer.resolved(chosen.facts),
            "predictions": predictions(explanation.outputs, chosen) if explanation.outputs is not None else [],
            "maps": maps,
            "image": _geometry(picture),
            "details": explanation.details,
            "usage": _usage(run) | {"exact": explanation.exact},
        }
        return Answer(body, heats, picture, output)

    def predict(
        self, *, model: str | None, image: bytes | None, top_k: int, run: Run, precision: Wanted | None = None
    ) -> Answer:
        """Classify or measure one picture."""
        chosen = self.store.get(model)
        used = self.precision(precision, chosen, tolerant=False)
        picture, x = self._input(image, chosen, run)
        with run.usage.stage("predict"):
            outputs = ModelProbe(chosen, self.device, run, used).scores(Rows.of(x))[0]
        body = {
            "id": run.id,
            "model": _model(chosen),
            "predictions": predictions(outputs, chosen, top_k),
            "image": _geometry(picture),
            "usage": _usage(run),
        }
        return Answer(body, [], picture)

    def _input(self, image: bytes | None, model: Model, run: Run) -> tuple[Picture, Tensor]:
        if image is None:
            raise InvalidParameter.at(
                "/image", "the request has no picture; send it as base64 in `image`, or as multipart part `image`"
            )
        limits = self.settings
        with self._cores, run.usage.stage("decode"):
            decoded = decode(image, max_bytes=limits.max_image_bytes, max_pixels=limits.max_image_pixels)
            picture = prepare(decoded, model.spec.transform)
            x = to_input(picture.seen, model.spec.transform)
        if model.device.type == "cuda":
            return picture, x.pin_memory().to(model.device, non_blocking=True)
        return picture, x

    def _targets(self, explainer: Explainer, given: Sequence[int | str] | None, model: Model) -> Targets:
        if not given:
            return Targets(model.facts)
        if not explainer.takes_targets:
            raise InvalidParameter.at("/targets", f"{explainer.name} has no targets; leave them out")
        if len(given) > self.settings.max_targets:
            raise InvalidParameter.at(
                "/targets", f"{len(given)} targets; at most {self.settings.max_targets} are taken in one request"
            )
        return Targets(model.facts, model.facts.task.read(given, model.facts))

    def _maps(
        self, explanation: Explanation, picture: Picture | None, output: OutputOptions, model: Model
    ) -> tuple[list[Heat], list[dict[str, Any]]]:
        """Return an explanation's maps, and their wire form."""
        heats = [_heat(m) for m in explanation.maps]
        return heats, [
            self._map(m, heat, picture, output, explanation, model)
            for m, heat in zip(explanation.maps, heats, strict=True)
        ]

    def _map(
        self,
        m: Map,
        heat: Heat,
        picture: Picture | None,
        output: OutputOptions,
        explanation: Explanation,
        model: Model,
    ) -> dict[str, Any]:
        over = rendering.overlay(heat, picture, output) if output.overlay and picture is not None else None
        alone = rendering.heatmap(heat, picture, output) if output.heatmap else None
        return {
            "name": m.name,
            "target": _target_wire(m.target, explanation.outputs, model),
            "layer": m.layer,
            "channel": m.channel,
            "channels": list(m.channels) if m.channels is not None else None,
            "heatmap": rendering.png_base64(alone) if alone else None,
            "overlay": rendering.png_base64(over) if over else None,
            "array": rendering.array_wire(heat.array, output.array) if output.array != "none" else None,
            "min": float(heat.array.min()),
            "max": float(heat.array.max()),
            "flat": heat.flat,
            "all_negative": heat.all_negative,
            "patch": list(m.patch) if m.patch is not None else None,
        }


def _heat(m: Map) -> Heat:
    array = np.ascontiguousarray(m.array.detach().float().cpu().numpy())
    return Heat(array, m.kind, m.interpolation, m.patch)


def _model(model: Model) -> dict[str, Any]:
    return {"name": model.facts.name, "version": model.version, "task": model.facts.task.name}


def predictions(outputs: Tensor, model: Model, top_k: int = PREDICTIONS) -> list[dict[str, Any]]:
    """Return the strongest outputs (K,) of a classifier, or all of a regression's."""
    return [_prediction(found) for found in model.facts.task.predictions(outputs, model.facts, top_k)]


def _prediction(found: Prediction) -> dict[str, Any]:
    return {name: value for name, value in vars(found).items() if value is not None}


def _target_wire(target: Target | None, outputs: Tensor | None, model: Model) -> dict[str, Any] | None:
    if target is None or outputs is None:
        return None
    strength = model.facts.task.strength(target, outputs)
    return {"index": target.index, "label": model.facts.label(target.index), "score": strength}


def _geometry(picture: Picture | None) -> dict[str, Any] | None:
    if picture is None:
        return None
    return {"width": picture.original.width, "height": picture.original.height, "box": list(picture.box)}


def _usage(run: Run) -> dict[str, Any]:
    used = run.usage
    return {
        "forwards": used.forwards,
        "backwards": used.backwards,
        "rows_avoided": used.avoided,
        "batch_rows_mean": used.batch_rows / used.batches if used.batches else 0.0,
        "queue_ms": used.queue_s * 1e3,
        "device_ms": used.device_s * 1e3,
        "render_ms": used.stages.get("render", 0.0) * 1e3,
        "dtype": str(DTYPES[used.precision]).removeprefix("torch."),
        "exact": True,
        "incremental": used.incremental is not None and used.cache != "hit",
        "arithmetic_share": used.incremental if used.incremental is not None else 1.0,
        "cache": used.cache,
    }


def applicability(facts: Facts) -> Mapping[str, str | None]:
    """Return every method with the reason why it does not apply to a model, or None."""
    reasons: dict[str, str | None] = {}
    for name, cls in registry().items():
        try:
            cls.require(facts)
            reasons[name] = None
        except NotApplicable as error:
            reasons[name] = error.detail
    return reasons

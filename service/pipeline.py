"""One request from picture to answer, the same for HTTP and the command line."""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from service import rendering
from service.engine.device import Device, Run
from service.engine.model import Model, ModelProbe
from service.engine.store import Store
from service.errors import InvalidParameter, NotApplicable, did_you_mean
from service.explainers.base import Explainer, Explanation, Facts, Map, Targets, registry
from service.images import Picture, decode, prepare, to_input
from service.rendering import Heat, OutputOptions
from service.settings import Settings

PREDICTIONS = 5


@dataclass
class Answer:
    """A finished request: the wire form, and the pieces of it that can be answered alone."""

    body: dict[str, Any]
    heats: list[Heat] = field(default_factory=list)
    picture: Picture | None = None
    output: OutputOptions = field(default_factory=OutputOptions)

    def image(self) -> bytes:
        """Return the first map as PNG: over the picture, where it can lie there."""
        heat = self.heats[0]
        drawn = rendering.overlay(heat, self.picture, self.output) if self.picture else None
        return rendering.png(drawn or rendering.heatmap(heat, self.picture, self.output))

    def array(self) -> bytes:
        """Return the first raw array as `.npy`."""
        return rendering.npy(self.heats[0].array)


class Pipeline:
    """Decodes, asks the model, renders. Its methods block: call them from a worker thread."""

    def __init__(self, settings: Settings, store: Store, device: Device) -> None:
        self.settings, self.store, self.device = settings, store, device

    def explain(
        self,
        explainer: Explainer,
        *,
        model: str | None,
        image: bytes | None,
        targets: Sequence[int | str] | None,
        output: OutputOptions,
        run: Run,
    ) -> Answer:
        """Explain one picture.

        Raises:
            ServiceError: whatever is wrong, by field.
        """
        chosen = self.store.get(model)
        explainer.require(chosen.facts)
        wanted = self._targets(explainer, targets, chosen)
        picture, x = self._input(image, chosen) if explainer.needs_image else (None, None)
        explanation = explainer.explain(ModelProbe(chosen, self.device, run), x, wanted)
        started = time.monotonic()
        heats = [_heat(m) for m in explanation.maps]
        maps = [
            self._map(m, heat, picture, output, explanation, chosen)
            for m, heat in zip(explanation.maps, heats, strict=True)
        ]
        body = {
            "id": _request_id(),
            "method": explainer.name,
            "model": _model(chosen),
            "params": explainer.resolved(chosen.facts),
            "predictions": predictions(explanation.outputs, chosen) if explanation.outputs is not None else [],
            "maps": maps,
            "image": _geometry(picture),
            "details": explanation.details,
            "usage": _usage(run, time.monotonic() - started),
        }
        return Answer(body, heats, picture, output)

    def predict(self, *, model: str | None, image: bytes | None, top_k: int, run: Run) -> Answer:
        """Classify or measure one picture."""
        chosen = self.store.get(model)
        picture, x = self._input(image, chosen)
        outputs = ModelProbe(chosen, self.device, run).scores(1, lambda i, j: x)[0]
        body = {
            "id": _request_id(),
            "model": _model(chosen),
            "predictions": predictions(outputs, chosen, top_k),
            "image": _geometry(picture),
            "usage": _usage(run, 0.0),
        }
        return Answer(body, [], picture)

    def _input(self, image: bytes | None, model: Model) -> tuple[Picture, Tensor]:
        if image is None:
            raise InvalidParameter.at(
                "/image", "the request has no picture; send it as base64 in `image`, or as multipart part `image`"
            )
        limits = self.settings
        decoded = decode(image, max_bytes=limits.max_image_bytes, max_pixels=limits.max_image_pixels)
        picture = prepare(decoded, model.spec.transform)
        return picture, to_input(picture.seen, model.spec.transform).to(model.device)

    def _targets(self, explainer: Explainer, given: Sequence[int | str] | None, model: Model) -> Targets:
        if model.facts.task == "regression" and explainer.takes_targets:
            if given:
                raise InvalidParameter.at(
                    "/targets", f"{model.facts.name} is a regression: it has no classes to choose; leave targets out"
                )
            return Targets(range(model.facts.outputs))
        if not explainer.takes_targets and given:
            raise InvalidParameter.at("/targets", f"{explainer.name} has no targets; leave them out")
        if given is None or len(given) == 0:
            return Targets()
        if len(given) > self.settings.max_targets:
            raise InvalidParameter.at(
                "/targets", f"{len(given)} targets; at most {self.settings.max_targets} are taken in one request"
            )
        return Targets([_target(target, i, model) for i, target in enumerate(given)])

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


def _request_id() -> str:
    return uuid.uuid4().hex


def _heat(m: Map) -> Heat:
    array = np.ascontiguousarray(m.array.detach().float().cpu().numpy())
    return Heat(array, m.kind, m.interpolation, m.patch)


def _model(model: Model) -> dict[str, Any]:
    return {"name": model.facts.name, "version": model.version, "task": model.facts.task}


def label(model: Model, index: int) -> str:
    """Return an output's label, or its number where there are none."""
    return model.spec.labels[index] if model.spec.labels else str(index)


def predictions(outputs: Tensor, model: Model, top_k: int = PREDICTIONS) -> list[dict[str, Any]]:
    """Return the strongest outputs (K,) of a classifier, or all of a regression's."""
    if model.facts.task == "regression":
        return [{"index": i, "label": label(model, i), "value": float(v)} for i, v in enumerate(outputs)]
    probability = outputs.softmax(0)
    best = outputs.argsort(descending=True, stable=True)[:top_k].tolist()
    return [
        {"index": i, "label": label(model, i), "probability": float(probability[i]), "logit": float(outputs[i])}
        for i in best
    ]


def _target_wire(index: int | None, outputs: Tensor | None, model: Model) -> dict[str, Any] | None:
    if index is None or outputs is None:
        return None
    score = outputs[index] if model.facts.task == "regression" else outputs.softmax(0)[index]
    return {"index": index, "label": label(model, index), "score": float(score)}


def _target(target: int | str, position: int, model: Model) -> int:
    """Resolve an index or label to an index."""
    pointer = f"/targets/{position}"
    if isinstance(target, int):
        if not 0 <= target < model.facts.outputs:
            raise InvalidParameter.at(
                pointer,
                f"target {target} is out of range: {model.facts.name} has outputs 0 to {model.facts.outputs - 1}",
            )
        return target
    same = [i for i, name in enumerate(model.spec.labels) if name.casefold() == target.casefold()]
    if len(same) == 1:
        return same[0]
    if same:
        raise InvalidParameter.at(pointer, f"label {target!r} stands for outputs {same}; give one of these indices")
    if not model.spec.labels:
        raise InvalidParameter.at(pointer, f"{model.facts.name} has no labels; give an index")
    near = did_you_mean(target, model.spec.labels, count=3)
    raise InvalidParameter.at(pointer, f"{model.facts.name} has no label {target!r}{near}; or give an index")


def _geometry(picture: Picture | None) -> dict[str, Any] | None:
    if picture is None:
        return None
    return {"width": picture.original.width, "height": picture.original.height, "box": list(picture.box)}


def _usage(run: Run, render_s: float) -> dict[str, Any]:
    return {
        "forwards": run.forwards,
        "batch_rows_mean": run.batch_rows / run.batches if run.batches else 0.0,
        "queue_ms": run.queue_s * 1e3,
        "device_ms": run.device_s * 1e3,
        "render_ms": render_s * 1e3,
        "dtype": "float32",
        "exact": True,
        "cache": "none",
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

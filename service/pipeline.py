"""One question from picture to answer, the same for whoever asks: plan, see, explain, answer."""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from service.answer import Answer, Needs, Shown, shown
from service.ask import Ask, picture_bytes
from service.client import wire
from service.contract import Explanation, Facts, Rows, Target, Targets
from service.engine.network.resident import Model
from service.engine.probe import ModelProbe
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.store import Store
from service.errors import InvalidParameter, NotApplicable
from service.explainers.base import registry
from service.images import Picture, decode, prepare, to_input
from service.precision import DTYPES, Precision
from service.settings import Settings

PREDICTIONS = 5  # beside an explanation


@dataclass(frozen=True)
class Plan:
    """A question that has been checked against its model: what will be done, and how many passes it will take."""

    ask: Ask
    model: Model
    targets: Targets
    precision: Precision
    passes: int


@dataclass(frozen=True)
class Seen:
    """What the model sees: a picture, and the input (1, 3, H, W) that it becomes; (0, 3, H, W) without a picture."""

    picture: Picture | None
    x: Tensor


class Pipeline:
    """Four steps, each callable alone. All but the first block: call them from a worker thread."""

    def __init__(self, settings: Settings, store: Store, device: Device) -> None:
        self.settings, self.store, self.device = settings, store, device
        # As many pictures are decoded and drawn at a time as there are cores to do it: one at the limit takes 300 MB
        # meanwhile, and more threads would only take the device thread's turns.
        self._cores = threading.BoundedSemaphore(os.cpu_count() or 1)

    def plan(self, ask: Ask) -> Plan:
        """Check a question against its model; quick, and before any picture is decoded.

        Raises:
            ServiceError: the model is not there, or the question does not fit it.
        """
        model, method = self.store.get(ask.model), ask.method
        if method is not None:
            method.require(model.facts)
        targets = self._targets(ask, model.facts)
        tolerant = method is not None and method.tolerates_reduced_precision()
        precision = self._precision(ask, model, tolerant=tolerant)
        passes = method.passes(model.facts, len(targets)) if method is not None else 1
        if not ask.pictures and (method is None or method.needs_image):
            raise InvalidParameter.at(
                "/image", "the request has no picture; send it as base64 in `image`, or as multipart part `image`"
            )
        return Plan(ask, model, targets, precision, passes)

    def see(self, plan: Plan, run: Run) -> Seen:
        """Decode the picture and prepare the model's input of it.

        Raises:
            ServiceError: it is no picture, or not one that is accepted.
        """
        model = plan.model
        if plan.ask.method is not None and not plan.ask.method.needs_image:
            return Seen(None, torch.empty(0, *model.facts.input_shape, device=model.device))
        limits, transform = self.settings, model.spec.transform
        file = picture_bytes(plan.ask.pictures[0])
        with self._cores, run.usage.stage("decode"):
            decoded = decode(
                file,
                max_bytes=limits.max_image_bytes,
                max_pixels=limits.max_image_pixels,
                window=transform.window,
                alpha="a" in transform.channels,
            )
            picture = prepare(decoded, transform)
            x = to_input(picture, transform)
        if model.device.type == "cuda":
            x = x.pin_memory().to(model.device, non_blocking=True)
        return Seen(picture, x)

    def explain(self, plan: Plan, seen: Seen, run: Run) -> Explanation:
        """Ask the network; without a method for its outputs alone.

        Raises:
            ServiceError: whatever is wrong, by field.
        """
        probe, method = ModelProbe(plan.model, self.device, run, plan.precision), plan.ask.method
        if method is None:
            with run.usage.stage("predict"):
                return Explanation((), outputs=probe.scores(Rows.of(seen.x))[0])
        with run.usage.stage("explain"):
            explanation = method.explain(probe, seen.x, plan.targets)
        run.usage.avoided += explanation.avoided
        return explanation

    def answer(self, plan: Plan, seen: Seen, explanation: Explanation, run: Run, needs: Needs) -> Answer:
        """Put what was found into values, and draw what a format needs of it.

        Raises:
            InvalidParameter: a drawing is larger than the format can hold.
        """
        facts, method, outputs = plan.model.facts, plan.ask.method, explanation.outputs
        with self._cores, run.usage.stage("render"):
            maps = self._shown(plan, seen, explanation, needs)
        count = PREDICTIONS if method is not None else plan.ask.top_k
        return Answer(
            id=run.id,
            model=wire.ModelRef(name=facts.name, version=plan.model.version, task=facts.task.name),
            predictions=tuple(facts.task.predictions(outputs, facts, count)) if outputs is not None else (),
            image=_geometry(seen.picture),
            usage=_usage(run, exact=explanation.exact),
            output=plan.ask.output,
            method=method.name if method is not None else None,
            params=method.resolved(facts) if method is not None else {},
            maps=maps,
            details=explanation.details,
        )

    def work(self, plan: Plan, run: Run, needs: Needs) -> Answer:
        """Take the three steps that follow a plan.

        Raises:
            ServiceError: whatever is wrong, by field.
        """
        seen = self.see(plan, run)
        return self.answer(plan, seen, self.explain(plan, seen, run), run, needs)

    def sketch(self, plan: Plan, seen: Seen, run: Run, needs: Needs) -> tuple[Shown, ...] | None:
        """Draw what is found so far of an explanation under way; None where there is nothing to show yet."""
        sketch = run.sketch  # which may be dropped meanwhile
        rough = sketch() if sketch is not None else None
        if rough is None:
            return None
        with self._cores:
            return self._shown(plan, seen, rough, needs)

    def check(self, run: Run) -> None:
        """Send a row through the default model.

        Raises:
            ServiceError: requests would not be answered.
        """
        model = self.store.get(None)
        ModelProbe(model, self.device, run).scores(Rows.of(model.example()[:1]))

    def _precision(self, ask: Ask, model: Model, *, tolerant: bool) -> Precision:
        wanted = ask.precision or self.settings.precision
        if wanted == "fp16" and model.device.type == "cpu":
            raise InvalidParameter.at("/precision", "fp16 needs a CUDA device; on a CPU use bf16, fp32 or auto")
        if wanted == "auto":
            return model.preferred if tolerant else "fp32"
        return wanted

    def _targets(self, ask: Ask, facts: Facts) -> Targets:
        given = ask.targets
        if not given or ask.method is None:
            return Targets(facts)
        if not ask.method.takes_targets:
            raise InvalidParameter.at("/targets", f"{ask.method.name} has no targets; leave them out")
        if len(given) > self.settings.max_targets:
            raise InvalidParameter.at(
                "/targets", f"{len(given)} targets; at most {self.settings.max_targets} are taken in one request"
            )
        return Targets(facts, facts.task.read(given, facts))

    @staticmethod
    def _shown(plan: Plan, seen: Seen, explanation: Explanation, needs: Needs) -> tuple[Shown, ...]:
        facts = plan.model.facts
        return tuple(
            shown(found, seen.picture, _target(found.target, explanation.outputs, facts), plan.ask.output, needs)
            for found in explanation.maps[: needs.maps]
        )


def _target(target: Target | None, outputs: Tensor | None, facts: Facts) -> wire.TargetRef | None:
    if target is None or outputs is None:
        return None
    strength = facts.task.strength(target, outputs)
    return wire.TargetRef(index=target.index, label=facts.label(target.index), score=strength)


def _geometry(picture: Picture | None) -> wire.Geometry | None:
    if picture is None:
        return None
    return wire.Geometry(
        width=picture.original.width,
        height=picture.original.height,
        box=list(picture.box),
        warnings=list(picture.warnings),
    )


def _usage(run: Run, *, exact: bool) -> wire.Usage:
    used = run.usage
    return wire.Usage(
        forwards=used.forwards,
        backwards=used.backwards,
        rows_avoided=used.avoided,
        batch_rows_mean=used.batch_rows / used.batches if used.batches else 0.0,
        queue_ms=used.queue_s * 1e3,
        device_ms=used.device_s * 1e3,
        render_ms=used.stages.get("render", 0.0) * 1e3,
        dtype=str(DTYPES[used.precision]).removeprefix("torch."),
        exact=exact,
        incremental=used.incremental is not None and used.cache != "hit",
        arithmetic_share=used.incremental if used.incremental is not None else 1.0,
        cache=used.cache,
    )


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

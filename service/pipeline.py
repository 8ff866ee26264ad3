"""One question from picture to answer, the same for whoever asks: plan, see, explain, answer."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from service.answer import Answer, Needs, Shown, shown, size
from service.ask import Ask
from service.client import wire
from service.codec.choosing import limits
from service.codec.inside import Canvas, Codec, Inside
from service.contract import Clean, Explanation, Facts, Readout, Rows, Target, Targets, View, wanted
from service.engine.network.resident import Model
from service.engine.probe import ModelProbe
from service.engine.scheduler.device import Device
from service.engine.scheduler.expectation import Expectation
from service.engine.scheduler.run import Run
from service.engine.store import Store
from service.errors import InvalidParameter, NotApplicable
from service.explainers.base import Explainer, registry
from service.images import Picture, Transform
from service.images.sent import picture_bytes
from service.machine.cores import cores
from service.precision import DTYPES, Precision
from service.rendering.bounds import Bounds
from service.settings import Settings

PREDICTIONS = 5  # beside an explanation


@dataclass(frozen=True)
class Plan:
    """A question that has been checked against its model: what will be done, and how many passes it will take."""

    ask: Ask
    model: Model
    targets: Targets
    precision: Precision
    passes: int  # at most
    expected: int  # by what such questions needed so far

    @property
    def kind(self) -> Hashable:
        """What questions have in common that need about the same share of the passes which they may need."""
        method = self.ask.method
        return self.model.version, method and (method.name, method.model_dump_json())


@dataclass(frozen=True)
class Seen:
    """What the model sees: a picture, and the input (1, 3, H, W) that it becomes; (0, 3, H, W) without a picture."""

    picture: Picture | None
    x: Tensor


@dataclass(frozen=True)
class Bound:
    """Targets as they are on a picture, and where the task had to look: the table that they are of, and the answer."""

    targets: Targets
    readout: Readout | None = None
    answer: Tensor | None = None


class Pipeline:
    """Four steps, each callable alone. All but the first block: call them from a worker thread."""

    def __init__(self, settings: Settings, store: Store, device: Device, codec: Codec | None = None) -> None:
        """Begin.

        Args:
            settings: the operator's.
            store: has the models.
            device: runs them.
            codec: decodes and draws; default: in the thread that asks.
        """
        self.settings, self.store, self.device = settings, store, device
        self.codec = codec or Inside(limits(settings), cores())
        self._expectation = Expectation()
        self._bounds = Bounds(settings.max_answer_values, settings.max_answer_pixels)

    def plan(self, ask: Ask, needs: Needs | None = None, targets: Targets | None = None) -> Plan:
        """Check a question against its model; quick, and before any picture is decoded.

        Args:
            ask: the question.
            needs: what the answer's format takes, where it is known.
            targets: the question's, where they have been read.

        Raises:
            ServiceError: the model is not there, or the question does not fit it.
        """
        model, method = self.store.get(ask.model), ask.method
        task = model.facts.task
        if method is not None:
            method.require(model.facts)
            method = method.settled(model.facts)
            ask = replace(ask, method=method)
        targets = self._targets(ask, model.facts, targets)
        precision = self._precision(ask, model, method)
        passes = method.passes(model.facts, len(targets)) if method is not None else 1
        if method is not None and method.needs_image and task.looks:
            passes += 1 + len(ask.further)  # the answers that say what is asked
        if method is not None and needs is not None and needs.takes_arrays(ask.output):
            self._bounds.plan(method.values(model.facts, len(targets)), needs.together)
        if not ask.pictures and (method is None or method.needs_image):
            raise InvalidParameter.at(
                "/image", "the request has no picture; send it as base64 in `image`, or as multipart part `image`"
            )
        plan = Plan(ask, model, targets, precision, passes, passes)
        return replace(plan, expected=self._expectation.passes(plan.kind, passes))

    def see(self, plan: Plan, run: Run) -> Seen:
        """Decode the picture and prepare the model's input of it.

        Raises:
            ServiceError: it is no picture, or not one that is accepted.
        """
        model = plan.model
        if plan.ask.method is not None and not plan.ask.method.needs_image:
            return Seen(None, torch.empty(0, *model.facts.input_shape, device=model.device))
        transform = model.spec.transform
        file = picture_bytes(plan.ask.pictures[0])
        with run.usage.stage("decode"):
            picture, x = self._seen(file, transform, run)
        pinned = model.device.type == "cuda"
        return Seen(picture, (x.pin_memory() if pinned else x).to(model.device, non_blocking=pinned))

    def _seen(self, file: bytes, transform: Transform, run: Run) -> tuple[Picture, Tensor]:
        """Return what a model sees of a picture, and its input (1, C, H, W) on the processor."""
        picture, values = self.codec.see(file, transform, run.check, run.caller)
        return picture, torch.from_numpy(values)

    def explain(self, plan: Plan, seen: Seen, run: Run) -> Explanation:
        """Ask the network; without a method for its outputs alone.

        Raises:
            ServiceError: whatever is wrong, by field.
        """
        facts, method = plan.model.facts, plan.ask.method
        probe = ModelProbe(plan.model, self.device, run, plan.precision)
        if method is None:
            with run.usage.stage("predict"):
                if facts.task.looks:
                    return Explanation((), answer=probe.answer(seen.x))
                return Explanation((), outputs=probe.scores(Rows.of(seen.x))[0])
        with run.usage.stage("explain"):
            bound = self.bind(plan, seen, probe)
            if bound.readout is not None:
                probe = ModelProbe(plan.model, self.device, run, plan.precision, bound.readout)
            with wanted(run.check):
                explanation = method.explain(probe, seen.x, bound.targets)
        run.usage.avoided += explanation.avoided
        self._expectation.learn(plan.kind, plan.passes, run.done)
        return replace(explanation, answer=bound.answer)

    def bind(self, plan: Plan, seen: Seen, probe: ModelProbe) -> Bound:
        """Fix what is asked on the picture, where the model's task has to look at its answer for that.

        Raises:
            ServiceError: what is asked is not in the picture.
        """
        facts, method = plan.model.facts, plan.ask.method
        if not facts.task.looks or seen.picture is None:
            return Bound(plan.targets)
        answer = probe.answer(seen.x)
        if method is None or not method.takes_targets:
            return Bound(plan.targets, answer=answer)
        readout, targets = facts.task.bind(plan.targets.given, facts, self._clean(plan, seen, answer, probe))
        return Bound(Targets(facts, targets), readout, answer)

    def _clean(self, plan: Plan, seen: Seen, answer: Tensor, probe: ModelProbe) -> Clean:
        """Return what targets are fixed on; further pictures are decoded when they are asked for."""
        view, transform = _view(seen, plan.model.facts), plan.model.spec.transform
        width, height = seen.picture.size if seen.picture is not None else (0, 0)

        # Around a mask that is padded there is none of it, whatever the mean colour is.
        dark = replace(transform, mean=(transform.range[0],) * len(transform.mean))

        def further(i: int, how: Transform = transform) -> tuple[Picture, Tensor]:
            return self._seen(picture_bytes(plan.ask.further[i], f"/pictures/{i}"), how, probe.run)

        def mask(i: int) -> Tensor:
            picture, _ = further(i, dark)
            if picture.size != (width, height):
                mask_w, mask_h = picture.size
                raise InvalidParameter.at(
                    f"/pictures/{i}",
                    f"the mask has {mask_w} x {mask_h} pixels, and the picture has {width} x {height}",
                )
            return torch.from_numpy(np.array(picture.seen.convert("L"))).gt(127).float()

        def answers(i: int) -> Tensor:
            return probe.answer(further(i)[1].to(plan.model.device))

        return Clean(answer, view, answers, mask)

    def answer(self, plan: Plan, seen: Seen, explanation: Explanation, run: Run, needs: Needs) -> Answer:
        """Put what was found into values, and draw what a format needs of it.

        Raises:
            InvalidParameter: a drawing is larger than the format can hold, or all of it more than an answer may be.
            Cancelled, DeadlineExceeded: nobody waits for more maps to be drawn.
        """
        facts, method = plan.model.facts, plan.ask.method
        said = explanation.answer if facts.task.looks else explanation.outputs
        view = _view(seen, facts) if seen.picture is not None else None
        self._bounds.check(*size(explanation.maps, seen.picture, plan.ask.output, needs), needs.together)
        with run.usage.stage("render"):
            maps = self._shown(plan, seen, explanation, run, needs)
        count = PREDICTIONS if method is not None else plan.ask.top_k
        return Answer(
            id=run.id,
            model=wire.ModelRef(
                name=facts.name, version=plan.model.version, task=facts.task.name, task_assumed=facts.task_assumed
            ),
            predictions=tuple(facts.task.predictions(said, facts, count, view)) if said is not None else (),
            image=geometry(seen.picture),
            usage=_usage(run, explanation, method),
            output=plan.ask.output,
            method=method.name if method is not None else None,
            params=method.resolved(facts) if method is not None else {},
            maps=maps,
            details=explanation.details,
            sanity=self.store.verdict(plan.model, method.name) if method is not None else None,
        )

    def work(self, plan: Plan, run: Run, needs: Needs) -> Answer:
        """Take the three steps that follow a plan.

        Raises:
            ServiceError: whatever is wrong, by field.
        """
        seen = self.see(plan, run)
        return self.answer(plan, seen, self.explain(plan, seen, run), run, needs)

    def sketch(self, plan: Plan, seen: Seen, run: Run, needs: Needs) -> tuple[tuple[Shown, ...], float | None] | None:
        """Draw what is found so far of an explanation under way, and say how far it is off, where that is bounded.

        It is drawn at the input's size. None where there is nothing to show yet.
        """
        sketch = run.sketch  # which may be dropped meanwhile
        with wanted(run.check):
            rough = sketch() if sketch is not None else None
        if rough is None:
            return None
        output = plan.ask.output.model_copy(update={"size": "input"})
        drawn = self._shown(replace(plan, ask=replace(plan.ask, output=output)), seen, rough, run, needs)
        return drawn, rough.error_bound

    @staticmethod
    def view(seen: Seen, facts: Facts) -> View:
        """Return which part of an upload a model sees."""
        return _view(seen, facts)

    def check(self, run: Run, name: str | None = None) -> None:
        """Send a row through a model, by default the default one.

        Raises:
            ServiceError: requests would not be answered.
        """
        model = self.store.get(name)
        ModelProbe(model, self.device, run).scores(Rows.of(model.example()[:1]))

    def _precision(self, ask: Ask, model: Model, method: Explainer | None) -> Precision:
        wanted = ask.precision or self.settings.precision
        if wanted == "fp16" and model.device.type == "cpu":
            raise InvalidParameter.at("/precision", "fp16 needs a CUDA device; on a CPU use bf16, fp32 or auto")
        reason = method.needs_float32() if method is not None else None
        if reason is not None and ask.precision not in (None, "auto", "fp32"):
            raise InvalidParameter.at("/precision", f"{reason}; use fp32")
        if wanted == "auto":
            return model.preferred if method is not None and method.tolerates_reduced_precision() else "fp32"
        return wanted if reason is None else "fp32"

    def targets(self, ask: Ask, facts: Facts) -> Targets:
        """Return a question's targets; those of its task's choice where it names none.

        Raises:
            InvalidParameter: one of them does not exist, or there are too many.
        """
        given = ask.targets
        if not given:
            return Targets(facts)
        if len(given) > self.settings.max_targets:
            raise InvalidParameter.at(
                "/targets", f"{len(given)} targets; at most {self.settings.max_targets} are taken in one request"
            )
        return Targets(facts, facts.task.read(given, facts, len(ask.further)))

    def _targets(self, ask: Ask, facts: Facts, known: Targets | None) -> Targets:
        if not ask.targets or ask.method is None:
            return Targets(facts)
        if not ask.method.takes_targets:
            raise InvalidParameter.at("/targets", f"{ask.method.name} has no targets; leave them out")
        return known if known is not None else self.targets(ask, facts)

    def _shown(self, plan: Plan, seen: Seen, explanation: Explanation, run: Run, needs: Needs) -> tuple[Shown, ...]:
        """Draw maps, one after the other, as long as somebody waits for them."""
        facts, output, picture = plan.model.facts, plan.ask.output, seen.picture
        wanted = needs.of(explanation.maps)
        whole = picture is not None and output.size == "original" and needs.pictures != "none" and bool(wanted)
        file = picture_bytes(plan.ask.pictures[0]) if whole else None
        found: list[Shown] = []
        with self.codec.drawing(Canvas(picture, file, plan.model.spec.transform), run.check, run.caller) as draw:
            for one in wanted:
                run.check()
                target = _target(one.target, explanation.outputs, facts)
                found.append(shown(one, target, output, needs, draw))
        return tuple(found)


def _target(target: Target | None, outputs: Tensor | None, facts: Facts) -> wire.TargetRef | None:
    if target is None or outputs is None:
        return None
    strength = facts.task.strength(target, outputs)
    asked = dict(target.asked) if isinstance(target.asked, Mapping) else target.asked
    return wire.TargetRef(index=target.index, label=facts.label(target.index), score=strength, asked=asked)


def _view(seen: Seen, facts: Facts) -> View:
    if seen.picture is None:
        raise ValueError("there is no picture to view")
    x0, y0, x1, y1 = map(float, seen.picture.box)
    return View((x0, y0, x1, y1), facts.input_size)


def geometry(picture: Picture | None) -> wire.Geometry | None:
    """Return a picture's size, and the part of it that the model sees, as answers say it."""
    if picture is None:
        return None
    return wire.Geometry(
        width=picture.size[0],
        height=picture.size[1],
        box=list(picture.box),
        warnings=list(picture.warnings),
    )


def _usage(run: Run, explanation: Explanation, method: Explainer | None) -> wire.Usage:
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
        runtime=used.runtime,
        exact=explanation.exact and not (method is not None and method.estimates()),
        error_bound=explanation.error_bound,
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


def passes(facts: Facts, method: str) -> int | None:
    """Return about how many passes a method takes on a model, by `Explainer.passes` with defaults, for one target.

    A row's forward is one pass, its backward two. None where it has no default, as of a layer that has to be named.
    """
    try:
        return registry()[method]().settled(facts).passes(facts, 1)
    except (InvalidParameter, NotApplicable):
        return None

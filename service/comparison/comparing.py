"""A comparison from its question to its values: plan, explain by each method, measure, answer."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from service.answer import Answer, Needs
from service.client import wire
from service.comparison.asking import SPREAD, Compare, question
from service.comparison.metrics import Found, metrics_of
from service.comparison.numbers import ROAD, Trial, chosen, controls_wire, gain_wire, rows
from service.comparison.pieces import ENDING, accounted
from service.contract import Explanation, Targets, wanted
from service.engine.probe import ModelProbe
from service.engine.scheduler.run import Run
from service.errors import InternalError, InvalidParameter, ServiceError
from service.explainers.base import registry
from service.faithfulness.gain import Gain
from service.faithfulness.likeness import product, standing
from service.faithfulness.shape import SHIFTS
from service.pipeline import Bound, Pipeline, Plan, Seen
from service.rendering.bounds import Together
from service.sanity.verdict import UNTESTED

log = logging.getLogger("heatlens")
# What a method may have against a request that suits others: its own parameters, and the number format, which has
# been found to suit the device.
_OWN = ("/params", "/precision")


@dataclass(frozen=True)
class Planned:
    """A comparison that has been checked against its model: each method's plan, or its problem."""

    asked: Compare
    whole: Plan  # for the network's predictions
    entries: tuple[tuple[str, Plan | ServiceError], ...]
    passes: int


@dataclass(frozen=True)
class Entry:
    """What became of one method."""

    method: str
    answer: Answer | None = None  # its maps, drawn
    faithfulness: tuple[wire.Faithfulness, ...] = ()  # a map
    metrics: tuple[wire.Metrics | None, ...] = ()  # a map
    sanity: wire.Sanity = field(default_factory=lambda: UNTESTED)
    cost: wire.Cost | None = None
    problem: ServiceError | None = None


@dataclass(frozen=True)
class Comparison:
    """The answer: of each method its maps and numbers, and what is known beside them."""

    whole: Answer  # the network's predictions, and what all of it took
    entries: tuple[Entry, ...]
    controls: tuple[wire.Controls, ...]
    agreement: tuple[wire.Agreement, ...]


def plan(pipeline: Pipeline, asked: Compare, needs: Needs | None = None) -> Planned:
    """Check a comparison against its model; quick, and before any picture is decoded.

    Args:
        pipeline: plans each method.
        asked: the comparison.
        needs: what the answer's format takes, where it is known.

    Raises:
        ServiceError: the model is not there, what all methods have in common does not fit it, or the answer would be
            too large.
    """
    model = pipeline.store.get(asked.whole.model)
    # Targets are read once: a mistake in them is the request's, and no method's.
    targets = pipeline.targets(asked.whole, model.facts)
    whole = replace(pipeline.plan(replace(asked.whole, targets=())), ask=asked.whole)
    spread = asked.asked or [
        (name, question(asked.whole, name, {}, "/methods")) for name in SPREAD if name in registry()
    ]
    entries: list[tuple[str, Plan | ServiceError]] = []
    needs = replace(needs, together=Together()) if needs is not None else None
    for i, (name, one) in enumerate(spread):
        if isinstance(one, ServiceError):
            entries.append((name, one))
            continue
        try:
            entries.append((name, pipeline.plan(one, needs, targets)))
        except InvalidParameter as error:
            if any(not found.pointer.startswith(_OWN) for found in error.errors):
                raise  # the request's
            entries.append((name, _placed(error, i)))
        except ServiceError as error:
            entries.append((name, error))
    if not asked.asked:  # a spread is of those that apply
        entries = [(name, one) for name, one in entries if isinstance(one, Plan)]
    return Planned(asked, whole, tuple(entries), _passes(asked, whole, entries))


def _passes(asked: Compare, whole: Plan, entries: Sequence[tuple[str, Plan | ServiceError]]) -> int:
    """Return about how many passes all of it will take."""
    plans = [one for _, one in entries if isinstance(one, Plan)]
    again = 1 + (SHIFTS + 1) * ("stability" in asked.metrics) + ("random-logit" in asked.metrics)
    maps = sum(len(one.targets) for one in plans)
    road = ROAD * maps * ("road" in asked.metrics)
    return 2 + rows(maps) + road + again * sum(one.passes for one in plans)


class Comparing:
    """One comparison under way."""

    def __init__(self, pipeline: Pipeline, planned: Planned, run: Run) -> None:
        self.pipeline, self.planned, self.run = pipeline, planned, run
        self.asked = planned.asked

    def work(self, needs: Needs) -> Comparison:
        """Explain by each method, measure all maps, and draw what a format needs of them.

        Raises:
            ServiceError: what all methods have in common is wrong, or the request is over.
        """
        whole, run = self.planned.whole, self.run
        seen = self.pipeline.see(whole, run)
        clean = self._part(lambda part: self.pipeline.explain(whole, seen, part))
        bound = self._bound(seen, clean)
        outputs = clean.outputs
        if bound.readout is not None and clean.answer is not None:
            outputs = bound.readout(clean.answer[None])[0]
        with accounted(run) as part:
            trial = Trial(whole, self.pipeline.device, part, seen.x, chosen(bound.targets, outputs), bound.readout)
            entries = [self._explained(i, seen, bound) for i in range(len(self.planned.entries))]
            with run.usage.stage("measure"):
                found = self._measured(entries, trial, seen)
        with run.usage.stage("draw"):
            all_of = replace(needs, together=Together())
            done = [self._drawn(one, seen, all_of, numbers) for one, numbers in zip(entries, found, strict=True)]
        named = self._named(trial, done)
        return Comparison(
            self.pipeline.answer(whole, seen, clean, run, needs),
            tuple(done),
            tuple(controls_wire(named[t], trial.known(t)) for t in named),
            tuple(one for t in named if (one := self._agreement(t, named[t], entries, trial)) is not None),
        )

    def _part(self, ask: Callable[[Run], Explanation]) -> Explanation:
        with accounted(self.run) as part:
            return ask(part)

    def _bound(self, seen: Seen, clean: Explanation) -> Bound:
        """Fix the targets on the picture, for all methods alike."""
        plans = [one for _, one in self.planned.entries if isinstance(one, Plan)]
        aimed = next((one for one in plans if one.ask.method is not None and one.ask.method.takes_targets), None)
        if aimed is None:
            targets = plans[0].targets if plans else self.planned.whole.targets
        elif aimed.model.facts.task.looks:
            with accounted(self.run) as part:
                probe = ModelProbe(aimed.model, self.pipeline.device, part, aimed.precision)
                return self.pipeline.bind(aimed, seen, probe)
        else:
            targets = aimed.targets
        if targets.facts.task.looks:
            return Bound(Targets(targets.facts, ()), answer=clean.answer)
        return Bound(targets.fixed(clean.outputs) if clean.outputs is not None else targets)

    def _explained(self, i: int, seen: Seen, bound: Bound) -> Found:
        """Explain by method i; what it ends in is its own."""
        name, planned = self.planned.entries[i]
        if isinstance(planned, ServiceError):
            return Found(name, problem=planned)
        started = time.perf_counter()
        own = replace(planned, targets=bound.targets if _aims(planned) else planned.targets)
        try:
            with accounted(self.run) as part, part.usage.stage("explain"):
                explanation = self.explain(own, seen, seen.x, bound, part)
        except ENDING:
            raise
        except ServiceError as error:
            return Found(name, problem=_placed(error, i) if self.asked.asked else error)
        except Exception:
            log.exception("defect while comparing by %r", name)
            return Found(name, problem=InternalError("the server met a defect of its own; its log holds the cause"))
        cost = wire.Cost(
            forwards=part.usage.forwards, backwards=part.usage.backwards, seconds=time.perf_counter() - started
        )

        def again(x: Tensor, targets: Targets, seed: int | None = None) -> Explanation:
            method = own.ask.method
            assert method is not None
            other = (
                own
                if seed is None
                else replace(own, ask=replace(own.ask, method=method.model_copy(update={"seed": seed})))
            )
            return self._part(lambda run: self.explain(other, seen, x, replace(bound, targets=targets), run))

        return Found(name, own, explanation, part, cost, again=again)

    def explain(self, own: Plan, seen: Seen, x: Tensor, bound: Bound, run: Run) -> Explanation:
        """Ask one method about an input; targets stay what they are on the picture."""
        method = own.ask.method
        assert method is not None
        readout = bound.readout if method.takes_targets else None
        probe = ModelProbe(own.model, self.pipeline.device, run, own.precision, readout)
        given = x if method.needs_image else x[:0]
        with wanted(run.check):
            explanation = method.explain(probe, given, bound.targets if method.takes_targets else own.targets)
        run.usage.avoided += explanation.avoided
        return replace(explanation, answer=bound.answer)

    def _measured(
        self, entries: Sequence[Found], trial: Trial, seen: Seen
    ) -> list[list[tuple[Gain, wire.Metrics | None]]]:
        """Return the numbers of each method's maps; the rows of all maps are one job."""
        maps = [one for entry in entries for one in entry.maps]
        if not trial.targets:
            gains = [Gain(reasons=("no target was asked for, and the methods choose none",)) for _ in maps]
        else:
            gains = trial.gains(maps)
        left, view = iter(gains), self.pipeline.view(seen, trial.facts) if seen.picture is not None else None
        found = []
        for entry in entries:
            own = [next(left) for _ in entry.maps]
            found.append([(gain, metrics_of(self.asked, entry, i, gain, trial, view)) for i, gain in enumerate(own)])
        return found

    def _drawn(
        self, entry: Found, seen: Seen, needs: Needs, numbers: Sequence[tuple[Gain, wire.Metrics | None]]
    ) -> Entry:
        if entry.plan is None or entry.explanation is None:
            return Entry(entry.method, problem=entry.problem)
        own = seen if entry.plan.ask.method and entry.plan.ask.method.needs_image else Seen(None, seen.x[:0])
        try:
            answer = self.pipeline.answer(entry.plan, own, entry.explanation, entry.run, needs)
        except ServiceError as error:
            return Entry(entry.method, problem=error)
        return Entry(
            entry.method,
            answer,
            tuple(wire.Faithfulness(gain=gain_wire(gain)) for gain, _ in numbers),
            tuple(metrics for _, metrics in numbers),
            answer.sanity or UNTESTED,
            entry.cost,
        )

    def _named(self, trial: Trial, entries: Sequence[Entry]) -> Mapping[int, wire.TargetRef]:
        """Return the trial's targets that maps explain, as answers name them."""
        named = {
            number: shown.target
            for entry in entries
            if entry.answer is not None
            for shown in entry.answer.maps
            if shown.target is not None and (number := trial.number(shown.map.target)) is not None
        }
        return dict(sorted(named.items()))

    def _agreement(
        self, number: int, target: wire.TargetRef, entries: Sequence[Found], trial: Trial
    ) -> wire.Agreement | None:
        """Return how alike the maps of one target are: the first one of each method."""
        ranked: dict[int, Tensor | None] = {}
        for i, entry in enumerate(entries):
            own = [one for one in entry.maps if trial.number(one.target) == number]
            if own:
                try:
                    ranked[i] = standing(trial.heat(own[0]).cpu())
                except ValueError:
                    ranked[i] = None
        if len(ranked) < 2:
            return None
        places = list(ranked)
        table: dict[tuple[int, int], float | None] = {}
        for i, a in enumerate(places):
            x = ranked[a]
            table[a, a] = None if x is None else 1.0
            for b in places[i + 1 :]:
                y = ranked[b]
                table[a, b] = table[b, a] = product(x, y) if x is not None and y is not None else None
        spearman = [[table[a, b] for b in places] for a in places]
        return wire.Agreement(target=target, methods=places, spearman=spearman)


def _placed(error: ServiceError, i: int) -> ServiceError:
    """Return an error of method i, its parameters named by their place in the request."""
    placed = copy.copy(error)
    placed.errors = tuple(
        one._replace(pointer=f"/methods/{i}{one.pointer}") if one.pointer.startswith("/params") else one
        for one in error.errors
    )
    return placed


def _aims(planned: Plan) -> bool:
    return planned.ask.method is not None and planned.ask.method.takes_targets

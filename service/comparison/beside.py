"""Numbers beside the maps of one method, in the answer of an explanation that asks for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from service.answer import Answer, Shown
from service.client import wire
from service.comparison.numbers import Trial, chosen, controls_wire, gain_wire
from service.comparison.pieces import accounted
from service.contract import Explanation
from service.engine.probe import ModelProbe
from service.engine.scheduler.run import Run
from service.faithfulness.gain import Gain
from service.pipeline import Pipeline, Plan, Seen


def measured(
    pipeline: Pipeline, plan: Plan, seen: Seen, explanation: Explanation, run: Run
) -> Callable[[Answer], Answer]:
    """Find out how well each map orders the picture's pixels; return what puts that into the answer.

    Raises:
        ServiceError: what is asked is not in the picture, or the request is over.
    """
    if seen.picture is None:
        nothing = Gain(reasons=("the method looks at no picture",))
        return lambda answer: _with(answer, [wire.Faithfulness(gain=gain_wire(nothing)) for _ in answer.maps])
    with accounted(run) as part:
        bound = pipeline.bind(plan, seen, ModelProbe(plan.model, pipeline.device, part, plan.precision))
        # Where a task looks, and the method aims at nothing, nothing was asked for either.
        aims = bound.readout is not None or not plan.model.facts.task.looks
        targets = chosen(bound.targets, explanation.outputs) if aims else ()
        trial = Trial(plan, pipeline.device, part, seen.x, targets, bound.readout)
        gains = trial.gains(explanation.maps)
        numbers = [trial.number(one.target) for one in explanation.maps]
        known = {n: trial.known(n) for n in numbers if n is not None}

    def put(answer: Answer) -> Answer:
        found = []
        for shown, gain, n in zip(answer.maps, gains, numbers, strict=False):
            there = n is not None and shown.target is not None
            beside = controls_wire(shown.target, known[n]) if there else None  # type: ignore[index, arg-type]
            found.append(wire.Faithfulness(gain=gain_wire(gain), controls=beside))
        return _with(answer, found)

    return put


def _with(answer: Answer, numbers: list[wire.Faithfulness]) -> Answer:
    maps: list[Shown] = [replace(one, faithfulness=two) for one, two in zip(answer.maps, numbers, strict=True)]
    return replace(answer, maps=tuple(maps))

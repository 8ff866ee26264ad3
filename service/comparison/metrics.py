"""The numbers beside gain, sanity and cost that a comparison gives where they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from service.client import wire
from service.comparison.asking import Compare
from service.comparison.numbers import Trial, curves_wire, likeness
from service.comparison.pieces import ENDING
from service.contract import Box, Explanation, Map, Target, Targets, View
from service.engine.scheduler.run import Run
from service.errors import ServiceError
from service.faithfulness.gain import Gain
from service.faithfulness.shape import localisation, moved, shifts, sparsity
from service.pipeline import Plan

log = logging.getLogger("heatlens")


@dataclass(frozen=True)
class Found:
    """What became of one method, before its maps are measured."""

    method: str
    plan: Plan | None = None
    explanation: Explanation | None = None
    run: Run = field(default_factory=Run)
    cost: wire.Cost | None = None
    problem: ServiceError | None = None
    again: Callable[..., Explanation] | None = None  # (input, targets, seed) -> another explanation

    @property
    def maps(self) -> Sequence[Map]:
        """Its maps."""
        return self.explanation.maps if self.explanation is not None else ()


def metrics_of(
    asked: Compare, entry: Found, i: int, gain: Gain, trial: Trial, view: View | None
) -> wire.Metrics | None:
    """Return the numbers that are asked for of a method's map i; None where there are none."""
    if not asked.metrics:
        return None
    numbers: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, measure in _MEASURES.items():
        if name not in asked.metrics:
            continue
        try:
            numbers[name.replace("-", "_")] = measure(_Map(asked, entry, i, gain, trial, view))
        except ENDING:
            raise
        except (ValueError, ServiceError) as error:
            reasons[name] = str(error)
        except Exception:
            log.exception("defect while measuring %r of %r", name, entry.method)
            reasons[name] = "the server met a defect of its own; its log holds the cause"
    return wire.Metrics(**numbers, reasons=reasons)


@dataclass(frozen=True)
class _Map:
    """One map, with all that measures may want."""

    asked: Compare
    entry: Found
    i: int
    gain: Gain
    trial: Trial
    view: View | None

    @property
    def map(self) -> Map:
        return self.entry.maps[self.i]

    @property
    def target(self) -> Target:
        """Its target, of those of the trial."""
        number = self.trial.number(self.map.target)
        if number is None:
            raise ValueError("the map has no target of those that were asked for")
        return self.trial.targets[number]

    def again(self, x: Tensor, target: Target, seed: int | None = None) -> Map:
        """Explain a target alone, maybe of another picture."""
        assert self.entry.again is not None
        maps = self.entry.again(x, Targets(self.trial.facts, [target]), seed).maps
        # A method without a choice of targets answers all of them, as RAM does.
        return next((one for one in maps if one.target is not None and one.target.same(target)), maps[0])


def _curves(of: _Map) -> wire.Curves:
    if not of.gain.curves:
        raise ValueError(of.gain.reason or "there are none")
    return curves_wire(of.gain.curves)


def _road(of: _Map) -> float:
    return of.trial.road(of.map)


def _completeness(of: _Map) -> wire.Completeness:
    found = of.map.completeness
    if found is None:
        raise ValueError("the method does not promise that its maps add up to anything")
    return wire.Completeness(promises=found.promises, change=found.change, residual=found.residual)


def _sparsity(of: _Map) -> float:
    return sparsity(of.map.array)


def _stability(of: _Map) -> wire.Stability:
    before = of.map.array
    target, std = of.target, of.trial.facts.std
    after = [of.again(x, target).array for x in shifts(of.trial.x, std)]
    largest = moved(before, after)
    if largest is None:
        raise ValueError("the map is zero everywhere")
    method = of.entry.plan.ask.method if of.entry.plan is not None else None
    seed = getattr(method, "seed", None)
    seeds = moved(before, [of.again(of.trial.x, target, seed + 1).array]) if isinstance(seed, int) else None
    return wire.Stability(largest=largest, seeds=seeds)


def _random_logit(of: _Map) -> float:
    outputs, target = of.entry.explanation.outputs if of.entry.explanation is not None else None, of.target
    low = of.trial.facts.task.low(outputs) if outputs is not None and of.trial.readout is None else None
    if low is None:
        raise ValueError(f"no class of {of.trial.facts.name} has a map of its own that this one could be held against")
    if low.index == target.index:
        raise ValueError("the target is itself the class of rank 3K/4")
    found = likeness(of.trial.heat(of.map), of.trial.heat_of(of.again(of.trial.x, low)))
    if found is None:
        raise ValueError("the other class's map is flat")
    return abs(found)


def _localisation(of: _Map) -> wire.Localisation:
    assert of.asked.box is not None
    assert of.view is not None
    x0, y0, x1, y1 = of.view.to_input(of.asked.box)
    box: Box = (round(x0), round(y0), max(round(x1), round(x0) + 1), max(round(y1), round(y0) + 1))
    found = localisation(of.trial.heat(of.map), box)
    return wire.Localisation(pointing=found.pointing, energy=found.energy, area=found.area)


_MEASURES: dict[wire.Metric, Callable[[_Map], Any]] = {
    "curves": _curves,
    "road": _road,
    "completeness": _completeness,
    "sparsity": _sparsity,
    "stability": _stability,
    "random-logit": _random_logit,
    "localisation": _localisation,
}

"""Numbers about the maps of one picture: one scene, one set of controls, one job for the rows of all maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from service.client import wire
from service.contract import Facts, Map, Readout, Target, Targets
from service.engine.probe import ModelProbe
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.errors import ModelFailed, ModelOutput
from service.explainers.baselines import baseline
from service.faithfulness.controls import RANDOMS
from service.faithfulness.curves import STEPS, Curve, Scene
from service.faithfulness.gain import Control, Gain, controls, gains
from service.faithfulness.likeness import spearman
from service.faithfulness.ordering import enlarged, heat, ranks
from service.faithfulness.road import SHARES, road
from service.pipeline import Plan

HIDDEN = ("blur", "mean")
ENDS = 1 + len(HIDDEN)  # rows of a picture: it, and it hidden in each way
A_MAP = len(HIDDEN) * 2 * (STEPS - 1)  # rows of a map: deletion and insertion between their ends
CONTROLS = (RANDOMS + 1) * A_MAP  # rows of the random maps and the bell
ROAD = 2 * len(SHARES)  # rows of a map's ROAD


@dataclass(frozen=True)
class Trial:
    """What is asked of a model about a picture, its targets fixed."""

    plan: Plan  # of any method, or of none
    device: Device
    run: Run
    x: Tensor  # (1, C, H, W)
    targets: tuple[Target, ...]
    readout: Readout | None  # what the targets are columns of; None: the model's answer

    @property
    def facts(self) -> Facts:
        """What is known of the model."""
        return self.plan.model.facts

    @cached_property
    def scene(self) -> Scene:
        """The picture, and it hidden in each way."""
        evidence = self.facts.task.evidence(self.readout or self.facts.task.whole, self.targets)
        probe = ModelProbe(self.plan.model, self.device, self.run, "fp32", evidence)
        blanks = {name: baseline(self.facts, self.x, name) for name in HIDDEN}
        return Scene.of(probe, self.x, blanks, odds=evidence.odds)

    @cached_property
    def controls(self) -> Sequence[Mapping[str, Control]]:
        """What maps reach that know nothing of the network, a target."""
        return controls(self.scene)

    @cached_property
    def silent(self) -> str | None:
        """Why nothing can be measured, where the network has no answer to the picture with something hidden."""
        try:
            _ = self.controls  # which are found here
        except (ModelFailed, ModelOutput) as error:
            return _silent(error)
        return None

    def known(self, number: int) -> Mapping[str, Control]:
        """Return the controls of a target; none where nothing can be measured."""
        return self.controls[number] if self.silent is None else {}

    def number(self, target: Target | None) -> int | None:
        """Return the number of a map's target among those of the trial."""
        return next((i for i, one in enumerate(self.targets) if target is not None and one.same(target)), None)

    def gains(self, maps: Sequence[Map]) -> list[Gain]:
        """Return the gain of each map."""
        numbers = [self.number(one.target) for one in maps]
        known = [(one, n) for one, n in zip(maps, numbers, strict=True) if n is not None]
        found = iter(self._gains(known) if known else [])
        return [
            next(found) if n is not None else Gain(reasons=(_no_target(one),))
            for one, n in zip(maps, numbers, strict=True)
        ]

    def _gains(self, maps: Sequence[tuple[Map, int]]) -> list[Gain]:
        reason = self.silent
        if reason is None:
            try:
                return gains(self.scene, self.controls, maps)
            except (ModelFailed, ModelOutput) as error:
                reason = _silent(error)
        return [Gain(reasons=(reason,)) for _ in maps]

    def road(self, found: Map) -> float:
        """Return a map's ROAD.

        Raises:
            ValueError: with the reason why a map gives no order to pixels.
        """
        order = ranks(self.heat(found))
        number = self.number(found.target)
        assert number is not None
        return float(road(self.scene.probe, self.x, [order], self.scene.key)[0, number])

    def heat(self, found: Map) -> Tensor:
        """Return a map at the picture's size, (H, W).

        Raises:
            ValueError: with the reason why a map gives no order to pixels.
        """
        if self.number(found.target) is None:
            raise ValueError(_no_target(found))
        return self.heat_of(found)

    def heat_of(self, found: Map) -> Tensor:
        """Return the same, whatever the map's target is.

        Raises:
            ValueError: with the reason why a map gives no order to pixels.
        """
        return enlarged(heat(found), (self.x.shape[2], self.x.shape[3]), found.interpolation)


def _silent(error: ModelFailed | ModelOutput) -> str:
    return f"of the picture with something hidden, {error.detail}"


def _no_target(found: Map) -> str:
    try:
        heat(found)
    except ValueError as error:
        return str(error)
    return "the map explains another target than those that were asked for"


def gain_wire(gain: Gain) -> wire.Gain:
    """Return a gain as answers have it."""
    return wire.Gain(**{name: gain.gains.get(name) for name in HIDDEN}, reason=gain.reason)


def controls_wire(target: wire.TargetRef, known: Mapping[str, Control]) -> wire.Controls:
    """Return controls as answers have them."""
    random = {name: [known[name].mean, known[name].deviation] if name in known else None for name in HIDDEN}
    bell = {name: known[name].bell if name in known else None for name in HIDDEN}
    return wire.Controls(target=target, random=wire.RandomPair(**random), bell=wire.Pair(**bell))


def curves_wire(curves: Mapping[str, Curve]) -> wire.Curves:
    """Return curves as answers have them."""
    return wire.Curves(**{name: _curve(curves[name]) if name in curves else None for name in HIDDEN})


def _curve(curve: Curve) -> wire.Curve:
    return wire.Curve(
        shares=list(curve.shares),
        deletion=list(curve.deletion),
        insertion=list(curve.insertion),
        deletion_area=curve.deletion_area,
        insertion_area=curve.insertion_area,
    )


def likeness(a: Tensor | None, b: Tensor | None) -> float | None:
    """Return the rank correlation of two maps; None where one of them is none, or flat."""
    return spearman(a, b) if a is not None and b is not None else None


def rows(maps: int) -> int:
    """Return how many rows the gains of so many maps take at most."""
    return ENDS + CONTROLS + A_MAP * maps


def chosen(targets: Targets, outputs: Tensor | None) -> tuple[Target, ...]:
    """Return a request's targets, given the clean picture's outputs; none where there is nothing to choose them by."""
    if targets.given is None and outputs is None:
        return ()
    return targets.given if targets.given is not None else targets.chosen(outputs)  # type: ignore[arg-type]

"""Gain over random: how much better a map orders a picture's pixels than maps do that know nothing of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, stdev

from torch import Tensor

from service.contract import Map
from service.faithfulness.controls import RANDOMS, control_orders
from service.faithfulness.curves import Curve, Scene
from service.faithfulness.ordering import enlarged, heat, ranks

_ALIKE = 2000  # pixels, of which a place more or less in an order is rounding
_LEAST = 1e-6  # deviation of random maps that is more than rounding


@dataclass(frozen=True)
class Control:
    """What maps reach that know nothing of the network, for one target and one way to hide pixels."""

    mean: float  # of the random maps' gaps
    deviation: float  # of the same
    bell: float  # its gain

    def gain(self, gap: float) -> float:
        """Return a gap's distance from the random maps' mean, in their deviations."""
        return (gap - self.mean) / self.deviation


@dataclass(frozen=True)
class Gain:
    """A map's gain and curve by what hides pixels; of what is missing, the reasons."""

    gains: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    @property
    def reason(self) -> str | None:
        """Why a number is missing."""
        return "; ".join(self.reasons) or None


def controls(scene: Scene) -> Sequence[Mapping[str, Control]]:
    """Return the controls of each target, by what hides pixels, where that tells anything of the target.

    Where random maps all reach the same, every order of pixels is as good as any other one, and there are none.
    """
    names = [name for name in scene.blanks if scene.usable(name)]
    curves = scene.curves(control_orders(scene.size), names)
    found: list[dict[str, Control]] = [{} for _ in scene.shown]
    for name in names:
        for t in scene.usable(name):
            control = _control([one[name][t] for one in curves])
            if control.deviation > _LEAST:
                found[t][name] = control
    return found


def _control(curves: Sequence[Curve]) -> Control:
    gaps = [curve.gap for curve in curves]
    deviation = stdev(gaps[:RANDOMS])
    control = Control(mean(gaps[:RANDOMS]), deviation, 0.0)
    return replace(control, bell=control.gain(gaps[RANDOMS])) if deviation > _LEAST else control


def gains(scene: Scene, known: Sequence[Mapping[str, Control]], maps: Sequence[tuple[Map, int]]) -> list[Gain]:
    """Return the gain of each map: of all rows, one job.

    Args:
        scene: the picture.
        known: its controls.
        maps: each with the number of its target.
    """
    found: dict[int, Gain] = {}
    orders: list[Tensor] = []  # all that differ
    places: dict[int, int] = {}  # of the order of each map among them
    for i, (one, _) in enumerate(maps):
        try:
            places[i] = _place(ranks(enlarged(heat(one), scene.size, one.interpolation)), orders)
        except ValueError as error:
            found[i] = Gain(reasons=(str(error),))
    # One that the score says too little of has no curve.
    names = [name for name in scene.blanks if any(name in known[maps[i][1]] for i in places)]
    curves = scene.curves(orders, names)
    for i, place in places.items():
        t = maps[i][1]
        own = {name: curves[place][name][t] for name in names if name in known[t]}
        found[i] = Gain(
            {name: known[t][name].gain(curve.gap) for name, curve in own.items()},
            own,
            tuple(_reason(scene, name, t) for name in scene.blanks if name not in own),
        )
    return [found[i] for i in range(len(maps))]


def _place(order: Tensor, orders: list[Tensor]) -> int:
    """Return the place of an order of pixels among others, where it is put if it is none of them.

    Several methods come to one map by different sums: cam, hires-cam, recipro-cam and often grad-cam where a linear
    layer follows. Orders in which no pixel moves by more than 1 in 2,000 are one.
    """
    reach = order.numel() // _ALIKE
    for place, other in enumerate(orders):
        if bool((order - other).abs().max() <= reach):
            return place
    orders.append(order)
    return len(orders) - 1


def _reason(scene: Scene, name: str, target: int) -> str:
    return scene.too_little(name, target) or f"{name}: random orders of pixels all score the same"

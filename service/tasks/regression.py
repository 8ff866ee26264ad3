"""Regression: outputs are quantities, each for itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from service.contract import Asked, Facts, Prediction, Score, Target, View
from service.errors import InvalidParameter, quoted
from service.tasks import base


@dataclass(frozen=True)
class Regression(base.Table):
    """K values. Without a named target all of them are explained, as what raises them."""

    scale: ClassVar[None] = None
    name: ClassVar[str] = "regression"
    measures: ClassVar[bool] = True
    kinds: ClassVar[tuple[Score, ...]] = ("value",)

    def most_by_default(self, facts: Facts) -> int:
        """Return the number of outputs."""
        return facts.outputs

    def scores(self, outputs: Tensor, kind: Score) -> Tensor:
        """Return the values themselves."""
        return outputs

    def read(self, asked: Sequence[Asked], facts: Facts, pictures: int = 0) -> tuple[Target, ...]:
        """Return the values that `{"output", "direction": "up" | "down"}` name; an output is an index or a label."""
        return tuple(_value(one, f"/targets/{i}", facts) for i, one in enumerate(asked))

    def default(self, outputs: Tensor) -> tuple[Target, ...]:
        """Return every output."""
        return tuple(Target(i) for i in range(len(outputs)))

    def predictions(self, answer: Tensor, facts: Facts, count: int, view: View | None = None) -> list[Prediction]:
        """Return all values, in their order."""
        return [Prediction(i, facts.label(i), value=float(value)) for i, value in enumerate(answer)]

    def strength(self, target: Target, outputs: Tensor) -> float:
        """Return the value, whichever direction is explained."""
        return float(outputs[target.index])


def _value(asked: Asked, pointer: str, facts: Facts) -> Target:
    if not isinstance(asked, Mapping):
        raise InvalidParameter.at(
            "/targets",
            f"{facts.name} is a regression: it has no classes to choose; leave targets out, or name an output as "
            '{"output": 0, "direction": "down"}',
        )
    base.fields(asked, pointer, facts, "output", "direction")
    chosen = base.index(asked["output"], f"{pointer}/output", facts)
    direction = asked.get("direction", "up")
    if direction not in ("up", "down"):
        raise InvalidParameter.at(
            f"{pointer}/direction",
            f"direction {quoted(direction)}: 'up' shows what raises the value, 'down' what lowers it",
        )
    return Target(chosen, ((chosen, -1.0),) if direction == "down" else (), asked)

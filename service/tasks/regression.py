"""Regression: outputs are quantities, each for itself."""

from collections.abc import Sequence

from torch import Tensor

from service.contract import Asked, Facts, Prediction, Score, Target
from service.errors import InvalidParameter
from service.tasks import base


class Regression:
    """K values. All of them are explained; there is nothing to choose."""

    name = "regression"
    measures = True

    def most_by_default(self, facts: Facts) -> int:
        """Return the number of outputs."""
        return facts.outputs

    def table(self, output: object, name: str) -> Tensor:
        """See `Task.table`."""
        return base.table(output, name)

    def scores(self, outputs: Tensor, kind: Score) -> Tensor:
        """Return the values themselves, whatever kind is asked for."""
        return outputs

    def read(self, asked: Sequence[Asked], facts: Facts) -> tuple[Target, ...]:
        """Refuse: a regression has no targets to name."""
        raise InvalidParameter.at(
            "/targets", f"{facts.name} is a regression: it has no classes to choose; leave targets out"
        )

    def default(self, outputs: Tensor) -> tuple[Target, ...]:
        """Return every output."""
        return tuple(Target(i) for i in range(len(outputs)))

    def predictions(self, outputs: Tensor, facts: Facts, count: int) -> list[Prediction]:
        """Return all values, in their order."""
        return [Prediction(i, facts.label(i), value=float(value)) for i, value in enumerate(outputs)]

    def strength(self, target: Target, outputs: Tensor) -> float:
        """Return the value."""
        return float(target(outputs))

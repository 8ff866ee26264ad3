"""Classification: outputs are classes that exclude each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from service.contract import Asked, Evidence, Facts, Prediction, Readout, Scale, Score, Target, View
from service.tasks import base
from service.tasks.scales import exclusive, odds


@dataclass(frozen=True)
class Classification(base.Table):
    """K classes; probabilities add up to one. Without a named target the top class is explained.

    scale: what the network answers; the probabilities of `logits` are their softmax.
    """

    scale: Scale = "logits"
    name: ClassVar[str] = "classification"
    measures: ClassVar[bool] = False
    kinds: ClassVar[tuple[Score, ...]] = ("logit", "probability")

    def most_by_default(self, facts: Facts) -> int:
        """Return 1."""
        return 1

    def scores(self, outputs: Tensor, kind: Score) -> Tensor:
        """Return logits or probabilities."""
        return exclusive(outputs, self.scale, kind)

    def read(self, asked: Sequence[Asked], facts: Facts, pictures: int = 0) -> tuple[Target, ...]:
        """Return the classes and contrasts that a request names."""
        return base.classes(asked, facts)

    def default(self, outputs: Tensor) -> tuple[Target, ...]:
        """Return the top class."""
        return (Target(int(outputs.argmax())),)

    def evidence(self, readout: Readout, targets: Sequence[Target]) -> Evidence:
        """Return each class's log-odds; of a contrast, the difference of its logits."""

        def read(outputs: Tensor, target: Target) -> Tensor:
            logits = self.scores(outputs, "logit")
            return target(logits) if target.terms else odds(logits, target.index)

        return base.columns(readout, targets, read)

    def low(self, outputs: Tensor) -> Target | None:
        """Return the class of rank 3K/4; None of two, as what speaks for one of them speaks against the other."""
        return base.lowest_quarter(outputs) if len(outputs) > 2 else None

    def predictions(self, answer: Tensor, facts: Facts, count: int, view: View | None = None) -> list[Prediction]:
        """Return the strongest classes, best first."""
        logit, probability = self.scores(answer, "logit"), self.scores(answer, "probability")
        best = answer.argsort(descending=True, stable=True)[:count].tolist()
        return [Prediction(i, facts.label(i), probability=float(probability[i]), logit=float(logit[i])) for i in best]

    def strength(self, target: Target, outputs: Tensor) -> float:
        """Return the class's probability; of a contrast, by how much it is above the others' mean."""
        return float(target(self.scores(outputs, "probability")))

"""Multi-label: outputs are classes of which each is there or not, whatever the others are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from service.contract import Asked, Evidence, Facts, Prediction, Readout, Scale, Score, Target, View
from service.tasks import base
from service.tasks.scales import independent

PRESENT = 0.5  # probability from which a class counts as there
MOST = 5  # classes that are explained where none is named


@dataclass(frozen=True)
class Multilabel(base.Table):
    """K classes, each with its own probability. Without a named target those that are there are explained.

    scale: what the network answers; the probability of a logit is its sigmoid.
    """

    scale: Scale = "logits"
    name: ClassVar[str] = "multilabel"
    measures: ClassVar[bool] = False
    kinds: ClassVar[tuple[Score, ...]] = ("logit", "probability")

    def most_by_default(self, facts: Facts) -> int:
        """Return how many classes are explained at most."""
        return min(MOST, facts.outputs)

    def scores(self, outputs: Tensor, kind: Score) -> Tensor:
        """Return logits or probabilities."""
        return independent(outputs, self.scale, kind)

    def read(self, asked: Sequence[Asked], facts: Facts, pictures: int = 0) -> tuple[Target, ...]:
        """Return the classes and contrasts that a request names."""
        return base.classes(asked, facts)

    def default(self, outputs: Tensor) -> tuple[Target, ...]:
        """Return all classes above one half, the strongest first and at most five; where none is, the top one."""
        probability = self.scores(outputs, "probability")
        best = probability.argsort(descending=True, stable=True).tolist()
        present = [i for i in best if float(probability[i]) > PRESENT]
        return tuple(Target(i) for i in present[:MOST] or best[:1])

    def evidence(self, readout: Readout, targets: Sequence[Target]) -> Evidence:
        """Return the logits, which are log-odds."""
        return base.columns(readout, targets, lambda outputs, target: target(self.scores(outputs, "logit")))

    def low(self, outputs: Tensor) -> Target | None:
        """Return the class of rank 3K/4."""
        return base.lowest_quarter(outputs)

    def predictions(self, answer: Tensor, facts: Facts, count: int, view: View | None = None) -> list[Prediction]:
        """Return the strongest classes, best first."""
        logit, probability = self.scores(answer, "logit"), self.scores(answer, "probability")
        best = answer.argsort(descending=True, stable=True)[:count].tolist()
        return [Prediction(i, facts.label(i), probability=float(probability[i]), logit=float(logit[i])) for i in best]

    def strength(self, target: Target, outputs: Tensor) -> float:
        """Return the class's probability; of a contrast, by how much it is above the others' mean."""
        return float(target(self.scores(outputs, "probability")))

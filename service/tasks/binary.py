"""Binary: one output, which says whether something is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from service.contract import Asked, Evidence, Facts, Prediction, Readout, Scale, Score, Target, View
from service.errors import CatalogError
from service.tasks import base
from service.tasks.scales import independent


@dataclass(frozen=True)
class Binary(base.Table):
    """One class, index 0, with its probability. It is what is explained, also where the network says it is not there.

    scale: what the network answers; the probability of a logit is its sigmoid.
    """

    scale: Scale = "logits"
    name: ClassVar[str] = "binary"
    measures: ClassVar[bool] = False
    kinds: ClassVar[tuple[Score, ...]] = ("logit", "probability")

    def outputs(self, raw: Tensor, labels: Sequence[str]) -> int:
        """Return 1.

        Raises:
            CatalogError: the network has more outputs.
        """
        if raw.shape[1] != 1:
            raise CatalogError(
                f"task = 'binary' means one output, and the network has {raw.shape[1]}; set task = 'classification' "
                "for classes that exclude each other, or 'multilabel' for independent ones"
            )
        return 1

    def most_by_default(self, facts: Facts) -> int:
        """Return 1."""
        return 1

    def scores(self, outputs: Tensor, kind: Score) -> Tensor:
        """Return logits or probabilities."""
        return independent(outputs, self.scale, kind)

    def read(self, asked: Sequence[Asked], facts: Facts, pictures: int = 0) -> tuple[Target, ...]:
        """Return the one class, which index 0 or its label names."""
        return base.classes(asked, facts)

    def default(self, outputs: Tensor) -> tuple[Target, ...]:
        """Return the one class."""
        return (Target(0),)

    def evidence(self, readout: Readout, targets: Sequence[Target]) -> Evidence:
        """Return the logits, which are log-odds."""
        return base.columns(readout, targets, lambda outputs, target: target(self.scores(outputs, "logit")))

    def predictions(self, answer: Tensor, facts: Facts, count: int, view: View | None = None) -> list[Prediction]:
        """Return the one class."""
        logit, probability = self.scores(answer, "logit"), self.scores(answer, "probability")
        return [Prediction(0, facts.label(0), probability=float(probability[0]), logit=float(logit[0]))]

    def strength(self, target: Target, outputs: Tensor) -> float:
        """Return the class's probability."""
        return float(target(self.scores(outputs, "probability")))

"""Classification: outputs are the logits of classes that exclude each other."""

from collections.abc import Sequence

from torch import Tensor

from service.contract import Asked, Facts, Prediction, Score, Target
from service.tasks import base


class Classification:
    """K logits; probabilities are their softmax. Without a named target the top class is explained."""

    name = "classification"
    measures = False

    def most_by_default(self, facts: Facts) -> int:
        """Return 1."""
        return 1

    def table(self, output: object, name: str) -> Tensor:
        """See `Task.table`."""
        return base.table(output, name)

    def scores(self, outputs: Tensor, kind: Score) -> Tensor:
        """Return logits as they are, or as probabilities."""
        return outputs.softmax(-1) if kind == "probability" else outputs

    def read(self, asked: Sequence[Asked], facts: Facts) -> tuple[Target, ...]:
        """Return the classes that indices and labels name."""
        return base.read(asked, facts)

    def default(self, outputs: Tensor) -> tuple[Target, ...]:
        """Return the top class."""
        return (Target(int(outputs.argmax())),)

    def predictions(self, outputs: Tensor, facts: Facts, count: int) -> list[Prediction]:
        """Return the strongest classes, best first."""
        probability = outputs.softmax(0)
        best = outputs.argsort(descending=True, stable=True)[:count].tolist()
        return [Prediction(i, facts.label(i), probability=float(probability[i]), logit=float(outputs[i])) for i in best]

    def strength(self, target: Target, outputs: Tensor) -> float:
        """Return the class's probability."""
        return float(target(outputs.softmax(0)))

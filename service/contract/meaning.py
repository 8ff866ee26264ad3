"""What a network's outputs mean, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from service.contract.facts import Facts

Score = Literal["logit", "probability", "value"]
Scale = Literal["logits", "probabilities", "log-probabilities"]
"""What the numbers are that a network with classes answers."""

Asked = int | str | Mapping[str, Any]
"""A target as a request names it: an index, a label, or what the task says of objects."""

Place = tuple[float, float, float, float]
"""A box (x0, y0, x1, y1), not necessarily of whole pixels."""


@dataclass(frozen=True)
class Target:
    """What a map explains: a column of the table of outputs, or columns weighed and added up."""

    index: int  # the output it is about, for people
    terms: tuple[tuple[int, float], ...] = ()  # (column, weight); none: the column `index` itself
    asked: Asked | None = None  # as the request named it; None: it named none

    def __call__(self, table: Tensor) -> Tensor:
        """Return the target's value (...) of a table (..., K): of outputs, of scores or of a head's weights."""
        if not self.terms:
            return table[..., self.index]
        columns = [column for column, _ in self.terms]
        weights = torch.tensor([weight for _, weight in self.terms], dtype=table.dtype, device=table.device)
        return table[..., columns] @ weights

    def same(self, other: Target) -> bool:
        """Whether another one is the same, however either was asked for."""
        return (self.index, self.terms) == (other.index, other.terms)


@dataclass(frozen=True)
class Prediction:
    """One thing that the network says of the whole picture; which of the numbers there are, the task says."""

    index: int | None = None
    label: str | None = None
    probability: float | None = None
    logit: float | None = None
    value: float | None = None
    share: float | None = None  # of the pixels that a class has
    rank: int | None = None
    score: float | None = None
    box: Place | None = None  # in pixels of the upright upload
    norm: float | None = None


@dataclass(frozen=True)
class View:
    """Which part of an upload a network sees."""

    box: Place  # in pixels of the upright upload
    size: tuple[int, int]  # (H, W) of the network's input

    def to_upload(self, box: Sequence[float]) -> Place:
        """Return a box in the input's pixels in those of the upload."""
        left, top, x, y = self._scale()
        x0, y0, x1, y1 = box
        return left + x0 * x, top + y0 * y, left + x1 * x, top + y1 * y

    def to_input(self, box: Sequence[float]) -> Place:
        """Return a box in the upload's pixels in those of the input."""
        left, top, x, y = self._scale()
        x0, y0, x1, y1 = box
        return (x0 - left) / x, (y0 - top) / y, (x1 - left) / x, (y1 - top) / y

    def _scale(self) -> tuple[float, float, float, float]:
        x0, y0, x1, y1 = self.box
        return x0, y0, (x1 - x0) / self.size[1], (y1 - y0) / self.size[0]


class Readout(Protocol):
    """Makes a table (N, K) of a network's answers (N, ...), on the device, inside the pass; differentiable."""

    @property
    def key(self) -> Hashable:
        """All that determines the table: answers of other readouts are other rows to whoever keeps them."""
        ...

    @property
    def ruled(self) -> bool:
        """Whether rules of a backward hold for what it does, too, as if it were the network's own last step."""
        ...

    def __call__(self, raw: Tensor) -> Tensor:
        """Return the table."""
        ...


@runtime_checkable
class Placing(Protocol):
    """A readout of answers that hold places beside amounts, as those of boxes: relevance is shared among amounts."""

    def amounts(self, raw: Tensor) -> Tensor:
        """Return answers whose places are constants."""
        ...


@dataclass(frozen=True)
class Evidence:
    """A readout of how strongly a network's answers speak for some targets: (N, T), without bounds.

    `odds` says that its unit is that of log-odds, log(p / (1 - p)); else it is the score's own, such as a value's.
    """

    key: Hashable
    read: Callable[[Tensor], Tensor] = field(compare=False)  # (N, ...) -> (N, T)
    odds: bool = True
    ruled: ClassVar[bool] = False

    def __call__(self, raw: Tensor) -> Tensor:
        """Return the table."""
        return self.read(raw)


@dataclass(frozen=True)
class Clean:
    """A request's picture as the network sees and answers it, and the further pictures that were sent with it."""

    answer: Tensor  # the network's, without the batch dimension
    view: View
    answers: Callable[[int], Tensor]  # the network's answer to a further picture
    mask: Callable[[int], Tensor]  # a further picture as a mask (H, W) of 0..1 over the network's input


class Task(Protocol):
    """What a network's outputs mean. The one place that knows of softmax, argmax and their kin."""

    @property
    def name(self) -> str:
        """The name on the wire."""
        ...

    @property
    def scale(self) -> Scale | None:
        """What the numbers are, for a network with classes."""
        ...

    @property
    def measures(self) -> bool:
        """Whether outputs are quantities that are measured (a regression's), and not classes."""
        ...

    @property
    def looks(self) -> bool:
        """Whether targets depend on the network's answer to the clean picture, so that `bind` has to see it first."""
        ...

    @property
    def kinds(self) -> tuple[Score, ...]:
        """The scores there are; the first one is what methods get that do not choose."""
        ...

    @property
    def whole(self) -> Readout:
        """What stands for all of an answer where nothing is asked: where targets do not look, the answer itself."""
        ...

    def outputs(self, raw: Tensor, labels: Sequence[str]) -> int:
        """Return how many classes, quantities or coordinates there are, given answers (N, ...)."""
        ...

    def most_by_default(self, facts: Facts) -> int:
        """Return how many targets there are at most where a request names none."""
        ...

    def scores(self, outputs: Tensor, kind: Score) -> Tensor:
        """Return a table (..., K) as the scores (..., K') that methods explain."""
        ...

    def read(self, asked: Sequence[Asked], facts: Facts, pictures: int = 0) -> tuple[Target, ...]:
        """Return the targets that a request names, which sent so many further pictures.

        Raises:
            InvalidParameter: one of them does not exist, or cannot be asked of this task; its pointer is `/targets/i`.
        """
        ...

    def default(self, outputs: Tensor) -> tuple[Target, ...]:
        """Return the targets of a request that names none, given the clean picture's row (K,) of the table.

        Only for a task whose targets do not look.
        """
        ...

    def bind(self, given: Sequence[Target] | None, facts: Facts, clean: Clean) -> tuple[Readout, tuple[Target, ...]]:
        """Fix what is asked on the clean picture: the readout of the request, and its targets on that table.

        Only for a task whose targets look.

        Raises:
            InvalidParameter: what is asked is not in the picture.
            NotApplicable: nothing is asked, and there is nothing to choose.
        """
        ...

    def evidence(self, readout: Readout, targets: Sequence[Target]) -> Evidence:
        """Return a readout of how strongly answers speak for targets, given the readout that these are columns of.

        A class that excludes others has log-odds y_c - logsumexp of the other logits, which probability near 0 or 1
        does not flatten; a contrast the difference of its logits.
        """
        ...

    def low(self, outputs: Tensor) -> Target | None:
        """Return a class that a picture hardly shows, given its row (K,): of rank 3K/4; None where there is none.

        Its map has to differ from that of the class which is there: of two classes that exclude each other it is that
        one turned over, and None.
        """
        ...

    def predictions(self, answer: Tensor, facts: Facts, count: int, view: View | None = None) -> list[Prediction]:
        """Return what the network says of a picture, given its answer without the batch dimension."""
        ...

    def strength(self, target: Target, outputs: Tensor) -> float:
        """Return what the network says of a target, for people, given the clean picture's row (K,) of the table."""
        ...


class Targets:
    """The targets of a request: named ones, or the task's default, which the clean picture's outputs decide.

    A method that runs the clean picture anyway needs no other forward to learn what to explain.
    """

    def __init__(self, facts: Facts, given: Sequence[Target | int] | None = None) -> None:
        self.facts = facts
        self.given = tuple(t if isinstance(t, Target) else Target(t) for t in given) if given is not None else None

    def __len__(self) -> int:
        return self.facts.task.most_by_default(self.facts) if self.given is None else len(self.given)

    def chosen(self, outputs: Tensor) -> tuple[Target, ...]:
        """Return the targets, given outputs (K,) or (N, K) whose first row is the clean picture's."""
        if self.given is not None:
            return self.given
        return self.facts.task.default(outputs.detach().reshape(-1, outputs.shape[-1])[0])

    def fixed(self, outputs: Tensor) -> Targets:
        """Return the same, decided: from then on other rows do not decide anew."""
        return Targets(self.facts, self.chosen(outputs))

    def columns(self, table: Tensor) -> Tensor:
        """Return each target's value of a table (..., K): (..., T)."""
        return torch.stack([target(table) for target in self.chosen(table)], -1)

    def scores(self, outputs: Tensor, kind: Score = "logit") -> Tensor:
        """Return each target's score of outputs (..., K): (..., T)."""
        return self.fixed(outputs).columns(self.facts.task.scores(outputs, kind))

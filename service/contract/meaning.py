"""What a network's outputs mean, and what is asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from service.contract.facts import Facts

Score = Literal["logit", "probability"]
Asked = int | str
"""A target as a request names it: an index, or a label."""


@dataclass(frozen=True)
class Target:
    """What a map explains: a column of the table of outputs, or columns weighed and added up."""

    index: int  # the output it is about, for people
    terms: tuple[tuple[int, float], ...] = ()  # (column, weight); none: the column `index` itself

    def __call__(self, table: Tensor) -> Tensor:
        """Return the target's value (...) of a table (..., K): of outputs, of scores or of a head's weights."""
        if not self.terms:
            return table[..., self.index]
        columns = [column for column, _ in self.terms]
        weights = torch.tensor([weight for _, weight in self.terms], dtype=table.dtype, device=table.device)
        return table[..., columns] @ weights


@dataclass(frozen=True)
class Prediction:
    """One output of the network on the whole picture; which of the numbers there are, the task says."""

    index: int
    label: str
    probability: float | None = None
    logit: float | None = None
    value: float | None = None


class Task(Protocol):
    """What a network's outputs mean. The one place that knows of softmax, argmax and their kin."""

    @property
    def name(self) -> str:
        """The name on the wire."""
        ...

    @property
    def measures(self) -> bool:
        """Whether outputs are quantities that are measured (a regression's), and not classes."""
        ...

    def most_by_default(self, facts: Facts) -> int:
        """Return how many targets there are at most where a request names none."""
        ...

    def table(self, output: object, name: str) -> Tensor:
        """Return what the network `name` answers for N inputs as a table (N, K).

        Raises:
            CatalogError: it is nothing that this task can be read from.
        """
        ...

    def scores(self, outputs: Tensor, kind: Score) -> Tensor:
        """Return outputs (..., K) as the scores (..., K) that methods explain."""
        ...

    def read(self, asked: Sequence[Asked], facts: Facts) -> tuple[Target, ...]:
        """Return the targets that a request names.

        Raises:
            InvalidParameter: one of them does not exist; its pointer is `/targets/i`.
        """
        ...

    def default(self, outputs: Tensor) -> tuple[Target, ...]:
        """Return the targets of a request that names none, given the clean picture's outputs (K,)."""
        ...

    def predictions(self, outputs: Tensor, facts: Facts, count: int) -> list[Prediction]:
        """Return what the network says of a picture with outputs (K,): the strongest classes, or all values."""
        ...

    def strength(self, target: Target, outputs: Tensor) -> float:
        """Return what the network says of a target, for people: a probability, or a value."""
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
        return self.facts.task.default(outputs.reshape(-1, outputs.shape[-1])[0])

    def fixed(self, outputs: Tensor) -> Targets:
        """Return the same, decided: from then on other rows do not decide anew."""
        return Targets(self.facts, self.chosen(outputs))

    def columns(self, table: Tensor) -> Tensor:
        """Return each target's value of a table (..., K): (..., T)."""
        return torch.stack([target(table) for target in self.chosen(table)], -1)

    def scores(self, outputs: Tensor, kind: Score = "logit") -> Tensor:
        """Return each target's score of outputs (..., K): (..., T)."""
        return self.fixed(outputs).columns(self.facts.task.scores(outputs, kind))

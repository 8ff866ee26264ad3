"""Embedding: outputs are coordinates, which only mean something beside those of other pictures."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from service.contract import Asked, Clean, Facts, Prediction, Readout, Score, Target, View, fingerprint
from service.errors import InvalidParameter, NotApplicable, quoted
from service.tasks import base


@dataclass(frozen=True)
class Likeness(Target):
    """Pictures that the picture is held against, as numbers of further pictures."""

    like: tuple[int, ...] = ()
    unlike: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cosines:
    """The cosine between each row's embedding and those of some pictures: a norm, and a linear layer behind it.

    By its derivative the relevance of a cosine would add up to nothing, as it is the same for all lengths.
    """

    directions: Tensor = field(compare=False)  # (R, E) of length one
    key: Hashable = None
    ruled: ClassVar[bool] = True

    def __call__(self, raw: Tensor) -> Tensor:
        """Return (N, R) of (N, E)."""
        return F.linear(F.normalize(raw, dim=1), self.directions.to(raw))


@dataclass(frozen=True)
class Embedding(base.Table):
    """(N, E). A target is the mean cosine to the pictures `like` less the mean cosine to those `unlike`.

    It explains one side: what of the picture makes it like the others. Swap the pictures for the other side.
    """

    scale: ClassVar[None] = None
    name: ClassVar[str] = "embedding"
    measures: ClassVar[bool] = False
    looks: ClassVar[bool] = True
    kinds: ClassVar[tuple[Score, ...]] = ("value",)

    def most_by_default(self, facts: Facts) -> int:
        """Return 1."""
        return 1

    def scores(self, outputs: Tensor, kind: Score) -> Tensor:
        """Return the cosines themselves."""
        return outputs

    def read(self, asked: Sequence[Asked], facts: Facts, pictures: int = 0) -> tuple[Target, ...]:
        """Return what `{"like": [i, ...], "unlike": [i, ...], "measure": "cosine"}` names."""
        return tuple(_likeness(one, f"/targets/{i}", facts, pictures) for i, one in enumerate(asked))

    def default(self, outputs: Tensor) -> tuple[Target, ...]:
        """Refuse: an embedding means nothing alone."""
        raise AssertionError("targets of an embedding are bound to pictures")

    def bind(self, given: Sequence[Target] | None, facts: Facts, clean: Clean) -> tuple[Readout, tuple[Target, ...]]:
        """Embed the pictures that targets name."""
        wanted = [t for t in given or () if isinstance(t, Likeness)]
        if not wanted:
            raise NotApplicable(
                f"{facts.name} answers with an embedding, which means nothing alone: send pictures beside this one "
                'and name what it is held against, as targets: [{"like": [0]}]'
            )
        numbers = sorted({i for t in wanted for i in (*t.like, *t.unlike)})
        directions = F.normalize(torch.stack([clean.answers(i) for i in numbers]).float(), dim=1)
        column = {number: i for i, number in enumerate(numbers)}
        targets = tuple(
            Target(
                i,
                (
                    *((column[n], 1.0 / len(t.like)) for n in t.like),
                    *((column[n], -1.0 / len(t.unlike)) for n in t.unlike),
                ),
                t.asked,
            )
            for i, t in enumerate(wanted)
        )
        return Cosines(directions, ("cosines", fingerprint(directions))), targets

    def predictions(self, answer: Tensor, facts: Facts, count: int, view: View | None = None) -> list[Prediction]:
        """Return the embedding's length."""
        return [Prediction(norm=float(answer.norm()))]

    def strength(self, target: Target, outputs: Tensor) -> float:
        """Return the target's value, -2 to 2; -1 to 1 where nothing is unlike."""
        return float(target(outputs))


def _likeness(asked: Asked, pointer: str, facts: Facts, pictures: int) -> Likeness:
    if not isinstance(asked, Mapping):
        raise InvalidParameter.at(
            pointer,
            f"{facts.name} answers with an embedding: it has no classes; name pictures that this one is held against, "
            'as {"like": [0]}',
        )
    base.fields(asked, pointer, facts, "like", "unlike", "measure")
    if asked.get("measure", "cosine") != "cosine":
        raise InvalidParameter.at(
            f"{pointer}/measure", f"measure {quoted(asked['measure'])} is unknown; there is 'cosine'"
        )
    like, unlike = (
        tuple(
            base.whole_number(number, f"{pointer}/{side}/{i}", pictures, "number of a picture")
            for i, number in enumerate(base.listed(asked, side, pointer))
        )
        for side in ("like", "unlike")
    )
    if not like:
        raise InvalidParameter.at(f"{pointer}/like", "name at least one picture, by its number from 0")
    return Likeness(0, asked=asked, like=like, unlike=unlike)

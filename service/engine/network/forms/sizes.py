"""How many rows a network takes at once: each larger batch is held against two of its rows, when it first comes.

No few rows can show that many are answered as each alone: a buffer may have a row for each of a batch that somebody
once had, and what is behind it may be left out or zero.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Generic, TypeVar

import torch
from torch import Tensor

from service.contract import Check, Part, Rescale, Trace, Tracing
from service.engine.network.forms.adapted import joined
from service.engine.network.places.looking import ROWS
from service.engine.network.proofs.checks import ALONE, difference
from service.errors import ModelFailed

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")
log = logging.getLogger("heatlens")
_AT_LOAD = 1 + ROWS  # rows that were run together: what `probed` makes of a picture, and another picture


@dataclass(frozen=True)
class Kind(Generic[P, R]):
    """A way to send rows through a network, in pieces of some rows each."""

    key: Hashable  # equal where rows take the same way
    count: Callable[[P], int]  # rows of a piece
    cut: Callable[[P, int, int], P]  # rows i to j of a piece
    joined: Callable[[list[R]], R]  # the answer to a piece, of those to its parts
    numbers: Callable[[R], Sequence[Tensor] | None]  # (N, ...) each, that tell answers apart; None: there are none
    weight: int = 1  # rows that the network is given for each
    tolerance: float = ALONE  # by which answers to one row differ in batches of several sizes


def rows_of(key: Hashable, table: Callable[[Tensor], Tensor] | None, tolerance: float = ALONE) -> Kind[Tensor, Tensor]:
    """Return the kind of inputs (n, C, H, W), whose answers are compared in the table that is made of them, if any."""
    return Kind(
        key, len, lambda x, i, j: x[i:j], joined, lambda found: [found if table is None else table(found)], 1, tolerance
    )


def maps_of(layer: str, table: Callable[[Tensor], Tensor] | None) -> Kind[tuple[T, Tensor], Tensor]:
    """Return the kind of maps (n, C, h, w) that start at a layer, each with what its picture was up to there."""
    of = rows_of(("at", layer), table)
    return Kind(of.key, lambda p: len(p[1]), lambda p, i, j: (p[0], p[1][i:j]), of.joined, of.numbers)


def traces_of(tracing: Tracing) -> Kind[Part, Trace | Exception]:
    """Return the kind of the parts of a trace."""
    pairs = isinstance(tracing.rule, Rescale)
    return Kind(
        ("traces", pairs, tracing.layers if tracing.partial else None),
        lambda part: len(part.x),
        _rows,
        lambda parts: Trace.joined([one for one in parts if isinstance(one, Trace)]),
        lambda found: [found.outputs, *found.activations.values()] if isinstance(found, Trace) else None,
        1 + pairs,
    )


def _rows(part: Part, i: int, j: int) -> Part:
    references = None if part.references is None else part.references[i:j]
    return replace(part, x=part.x[i:j], first=part.first + i, references=references)


class Sizes:
    """The largest batches that a network has been seen to answer as it answers their rows. Of the device thread."""

    def __init__(self, most: int | None, tell: Callable[[Check], None]) -> None:
        """Begin with what was run together at load.

        Args:
            most: rows of any batch; None: no bound is known.
            tell: takes the line for people, once there is a bound.
        """
        self.most, self._tell = most, tell
        self._proved: dict[Hashable, int] = {}

    def run(self, kind: Kind[P, R], pieces: Sequence[P], run: Callable[[Sequence[P]], list[R]]) -> list[R]:
        """Return the answer to each piece; in smaller batches, where the network does not take as many rows as these.

        Args:
            kind: of the pieces.
            pieces: of one batch.
            run: answers pieces in one batch.

        Raises:
            ModelFailed: the network fails on these rows in smaller batches, too.
        """
        rows = kind.weight * sum(map(kind.count, pieces))
        proved = min(self._proved.get(kind.key, _AT_LOAD), self.most or rows)
        if rows <= proved:
            return run(pieces)
        if self.most is not None:
            return [self._parted(kind, piece, self.most, run) for piece in pieces]
        try:
            found = run(pieces)
        except ModelFailed as error:
            parted = [self._parted(kind, piece, proved, run) for piece in pieces]
            log.warning("a network fails on %d rows at once, and not on %d: %s", rows, proved, error.raised)
            why = f"it fails on {rows} pictures at once"
        else:
            off = _off(kind, pieces, found, proved // kind.weight, run)
            if off is None:
                return found
            if off <= kind.tolerance:
                self._proved[kind.key] = rows
                return found
            parted = [self._parted(kind, piece, proved, run) for piece in pieces]
            why = f"a picture's answer is another one among {rows} than among few (by {off:.0%} of the largest output)"
        self.most = proved
        told = f"{why}: batches have {proved} pictures at most, which may be slower"
        self._tell(Check("batch", "warning", told, "let its forward take any number of pictures, each for itself"))
        return parted

    def _parted(self, kind: Kind[P, R], piece: P, most: int, run: Callable[[Sequence[P]], list[R]]) -> R:
        """Return the answer to a piece, run in parts that the network takes."""
        rows, step = kind.count(piece), max(1, most // kind.weight)
        found: list[R] = []
        for i in range(0, rows, step):
            found += run([kind.cut(piece, i, min(i + step, rows))])
            if kind.numbers(found[-1]) is None:
                return found[-1]
        return kind.joined(found)


def _off(
    kind: Kind[P, R], pieces: Sequence[P], found: Sequence[R], proved: int, run: Callable[[Sequence[P]], list[R]]
) -> float | None:
    """Return how far the answers to the last row, and to one that no batch before had, are from those in a small batch.

    None where nothing is known: a part has no answer, or one that is no finite number.
    """
    rows = sum(map(kind.count, pieces))
    at = [_place(list(map(kind.count, pieces)), row) for row in dict.fromkeys(((proved + rows) // 2, rows - 1))]
    few = run([kind.cut(pieces[piece], i, i + 1) for piece, i in at])
    most: float | None = None
    for (piece, i), alone in zip(at, few, strict=True):
        own, among = kind.numbers(alone), kind.numbers(found[piece])
        if own is None or among is None or not all(bool(torch.isfinite(a).all()) for a in own):
            return None
        for a, b in zip(own, among, strict=True):
            off = difference(a, b[i : i + 1])
            most = max(most or 0.0, off if off == off else float("inf"))
    return most


def _place(counts: Sequence[int], row: int) -> tuple[int, int]:
    """Return which piece has a row of all, and where in there it is."""
    ends = list(accumulate(counts))
    piece = next(k for k, end in enumerate(ends) if row < end)
    return piece, row - (ends[piece] - counts[piece])

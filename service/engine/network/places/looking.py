"""Whether the cells of a grid look at their own places of the picture, or the picture was moved on the way.

A network may crop, pad, shift, roll or zoom its picture and then work on a grid of the usual shape, which drawn over
the whole picture shows other places. No operation is looked for: which cells a changed square reaches bounds where the
first and the last cell look, for all networks whose cells look at windows of one size, a step apart. A layer is said to
look elsewhere only where no such windows meet both what was seen and the places that its cells stand for; what is
compatible with that, as convolutions without padding, uneven strides and windows larger than the picture are, is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal

import torch
from torch import Tensor

from service.engine.network.places.grids import CELLS, SQUARES, STEP, changed

ROWS = 1 + len(SQUARES) + 2
"""Rows of `probed`: the picture, it with each square changed, and with each pair of margins."""

_UPPER, _LOWER = 16, 8  # parts of a side: the width of margins above and left, and of those below and right
_LEAST = 8  # cells on an axis, from which on every sound grid sees the first margins: half a cell is as wide
_PAIRS = 4  # the same, to see one of two margins that lie opposite each other
_BEFORE = 20  # parts of a side, one of which may be padding beside the first that is looked at
_ENDING = 10  # cells on an axis, up to which none of a sound grid lies behind the picture's end
_TELLING = 4  # channels: fewer may be silent in whole rows of cells
_SILENT = 1 / 64  # of all numbers, that may be zero of fewer channels
_LARGE_ENOUGH = 1e-2  # of the largest number: of smaller ones too much is lost to rounding
_GAP = 2  # cells, from which on it parts what is reached
_ALIKE = 1.0  # cells, by which windows of one size and their steps seem to differ
_FINE = 24  # cells on an axis, from which on a grid that is off by less than one is in its place
_CHANNELS = 32  # that are looked at, at most
_REACHED = 1e-5  # of the largest change and of the largest number: more than floating point loses
_NEAR = 0.75  # cells
_OFF = 1 / 40  # of a side: by how much more than half a cell the first window may be off
_REST = 1 / 20  # the same of the last one: sides are padded to a multiple of a stride at that end, or not read to it


def probed(picture: Tensor) -> Tensor:
    """Return a picture (1, C, H, W) as it is, with each square changed, and with two margins each: (9, C, H, W).

    The first pair of margins are a sixteenth of the sides, above and left; the second an eighth, below and right.
    """
    height, width = picture.shape[2:]
    rows = picture.repeat(2, 1, 1, 1)
    rows[0, :, : -(-height // _UPPER)] += STEP
    rows[0, :, -(-height // _UPPER) :, : -(-width // _UPPER)] += STEP
    rows[1, :, height - -(-height // _LOWER) :] += STEP
    rows[1, :, : height - -(-height // _LOWER), width - -(-width // _LOWER) :] += STEP
    return torch.cat([changed(picture), rows])


Own = bool | Literal["unread"] | None
"""Whether cells look at their own places; None: it cannot be told. "unread": elsewhere, unless margins are blanked."""


def own_places(maps: Tensor, size: tuple[int, int], *, grid: bool, turned: bool = False) -> Own:
    """Whether the cells of maps (N, C, h, w) of `probed` pictures look at their own places.

    Args:
        maps: rows behind those of `probed` do not count.
        size: (H, W) of the pictures.
        grid: whether they are known for a grid; else they may be none at all, and it takes more to tell.
        turned: whether they change most where squares of a mirrored or turned picture are.
    """
    if len(maps) < ROWS or not maps.numel() or torch.finfo(maps.dtype).eps > _REACHED:
        return None
    if maps.shape[1] < _TELLING and float((maps == 0).float().mean()) > _SILENT:
        return None
    # Channels a whole step apart would all be the same corner of what `unfold` puts side by side.
    channels = torch.linspace(0, maps.shape[1] - 1, min(maps.shape[1], _CHANNELS)).long().to(maps.device)
    seen = maps[:ROWS, channels]
    changes = (seen[1:] - seen[:1]).abs_().sum(1)  # (8, h, w)
    most = changes[: len(SQUARES)].max()
    largest = seen[0].abs().sum(0).max()
    if not (most > _LARGE_ENOUGH * largest and torch.isfinite(most)):
        return None
    reached = changes > _REACHED * torch.maximum(most, largest)
    squares, margins = reached[: len(SQUARES)], reached[len(SQUARES) :]
    axes = [_Axis.of(squares.any(2), 0, size[0]), _Axis.of(squares.any(1), 1, size[1])]
    if _few(squares) and (turned or _lost(squares)):
        return False
    if not (grid or all(axis.narrow for axis in axes)):
        return None
    if all(axis.near for axis in axes):
        return True
    if any(axis.off for axis in axes):
        return False
    return "unread" if _unseen(squares, margins) else None


def _few(squares: Tensor) -> bool:
    """Whether each square reaches some cells of an axis, of (6, h, w), and at most half of them."""
    counts = [(squares.any(axis).sum(1), squares.shape[3 - axis]) for axis in (1, 2)]
    return all(cells >= _PAIRS and bool(((count > 0) & (count <= cells // 2)).all()) for count, cells in counts)


def _lost(squares: Tensor) -> bool:
    """Whether squares do not reach the cells (6, h, w) at their own places, nor those beside them."""
    if min(squares.shape[1:]) < _LEAST:
        return False
    lost = 0
    for square, at in zip(squares, SQUARES, strict=True):
        for axis, cells in enumerate(square.shape):
            own = (2 * at[axis] + 1) * cells // (2 * CELLS)
            lost += not bool(square.any(1 - axis)[max(0, own - 1) : own + 2].any())
    return lost > 1


def _unseen(squares: Tensor, margins: Tensor) -> bool:
    """Whether squares (6, h, w) or margins (2, h, w) of the picture reach no cells, or not those at their own ends.

    What the left margin reaches is looked for in the lower half, away from the upper margin, and so on.
    """
    first, last = margins
    for upper, lower, these in ((first, last, squares), (first.mT, last.mT, squares.mT)):
        cells, half = upper.shape[0], upper.shape[1] // 2
        begins = bool(upper[: -(-cells // 2), half:].any())
        ends = bool(lower[cells // 2 :, : upper.shape[1] - half].any())
        if cells >= _LEAST and not (begins and these.flatten(1).any(1).all()):
            return True
        if cells >= 2 * _LEAST and not ends:
            return True  # of fewer cells, a rest that is not read and a stride may be as wide
        if cells >= _PAIRS and not (begins or ends):
            return True
        before = -(-cells // _BEFORE)  # cells that may look at what stands beside the picture
        if cells >= _PAIRS and begins and not upper[:before].any():
            return True
        if _PAIRS <= cells <= _ENDING and ends and not lower[-1].any():
            return True
    return False


@dataclass(frozen=True)
class _Reach:
    """Which cells of an axis a part of the picture reaches, from the first to the last."""

    low: float  # where the part begins and ends, in shares of the picture
    high: float
    first: int
    last: int


def _span(reached: Sequence[int], cells: int) -> tuple[int, int]:
    """Return the first and the last of cells that are reached, but for others at the ends, as of a mirrored margin."""
    cuts = [k for k in range(1, len(reached)) if reached[k] - reached[k - 1] > _GAP]
    runs = [(reached[k], reached[m - 1]) for k, m in pairwise([0, *cuts, len(reached)])]
    inner = [run for run in runs if run[0] > 0 and run[1] < cells - 1] or runs
    return inner[0][0], inner[-1][1]


@dataclass(frozen=True)
class _Axis:
    """Which of the cells of one axis parts of it reach, in their order."""

    cells: int
    reached: Sequence[_Reach]

    @classmethod
    def of(cls, reached: Tensor, axis: int, side: int) -> "_Axis":
        """Return what squares reach, (squares, cells), of the rows (axis 0) or the columns (1) of so many pixels."""
        rows, found = reached.tolist(), []  # few numbers, of which a list is quicker than a tensor
        for at in sorted({square[axis] for square in SQUARES}):
            these = [row for row, square in zip(rows, SQUARES, strict=True) if square[axis] == at]
            if together := [cell for cell, any_of in enumerate(map(any, zip(*these, strict=True))) if any_of]:
                low, high = (edge * side // CELLS / side for edge in (at, at + 1))
                found.append(_Reach(low, high, *_span(together, reached.shape[1])))
        return cls(reached.shape[1], found)

    @property
    def turned(self) -> "_Axis":
        """The same, seen from its other end."""
        end = self.cells - 1
        found = [_Reach(1 - r.high, 1 - r.low, end - r.last, end - r.first) for r in reversed(self.reached)]
        return _Axis(self.cells, found)

    @property
    def narrow(self) -> bool:
        """Whether parts of the picture reach parts of the cells, in their order."""
        middles = [r.first + r.last for r in self.reached if r.last - r.first < self.cells // 2]
        return len(middles) > 1 and middles == sorted(set(middles))

    @property
    def inner(self) -> Sequence[_Reach]:
        """What is reached away from both ends."""
        return [r for r in self.reached if r.first > 0 and r.last < self.cells - 1]

    @property
    def even(self) -> bool:
        """Whether what is reached could be that of windows of one size, a step apart: no blocks that cells share."""
        inner = self.inner
        if len(inner) < 3:
            return False
        more = [r.last - r.first + 1 - (r.high - r.low) * self.cells for r in inner]
        if max(more) - min(more) > 2 * _ALIKE or max(more) > 2 + self.cells / CELLS:
            return False
        one, *others, last = inner
        step = (last.first + last.last - one.first - one.last) / (last.low + last.high - one.low - one.high)
        return all(
            abs(r.first + r.last - one.first - one.last - step * (r.low + r.high - one.low - one.high)) <= 2 * _ALIKE
            for r in others
        )

    @property
    def near(self) -> bool:
        """Whether each part reaches as many cells before as behind its place, of a fine grid."""
        return (
            self.cells >= _FINE
            and len(self.inner) == len({i for i, _ in SQUARES})
            and all(abs(r.first + r.last + 1 - self.cells * (r.low + r.high)) <= 2 * _NEAR for r in self.inner)
        )

    @property
    def off(self) -> bool:
        """Whether the first or the last cell looks at no part of its place, for sure."""
        if not self.even:
            return False
        half = 0.5 / self.cells
        return self._off(half + _OFF, half - _OFF) or self.turned._off(2 * half + _REST, half - _REST)

    def _off(self, begins: float, ends: float) -> bool:
        """Whether the first cell's window begins behind, or ends before, such shares of the picture.

        The window of cell i is [l + i s, r + i s). A part [x, y) reaches the cells from a to b: r + a s > x >= r + (a -
        1) s and l + b s < y <= l + (b + 1) s. Any two parts bound the step s, and so where the first window is.
        """
        for one, other in combinations(self.inner, 2):
            if other.last - one.last > 1:
                step = (other.high - one.high) / (other.last - one.last - 1)
                if one.high - (one.last + 1) * step > begins:
                    return True
            if other.first >= one.first:
                step = (other.low - one.low) / (other.first - one.first + 1)
                if one.low - (one.first - 1) * step < ends:
                    return True
        return False

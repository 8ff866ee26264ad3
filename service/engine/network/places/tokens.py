"""On which side of a grid of tokens those without a place stand: before it, behind it, or on both sides.

A class token read as the first place moves a whole map by one token, and its largest change often only to the cell
beside it. So all changes count here, not the largest: they have to lie on the squares that were changed.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.contract import Layout

Grid = tuple[int, int]
EXTRA = 16  # tokens without a place, at most
FEW = 8  # of these, on one side at most
_SMALLEST = 4  # places on an axis, below which more of them than on one side are not looked for
# By how much the best way leads, of what one token more on a side takes where each square changes its places alone.
_CLEAR = 0.05
_CLEAREST = 0.9  # of the best fit: answers that tell
_NOTHING = 1e-6  # of the largest change
_ALIKE = 0.8  # of the best fit
# Least likeness by which ways are told apart. The first layers of networks with such tokens reach 0.7 and more; 16
# tokens deep in a network, which are 4 x 4, are like 3 x 3 between two and five others by chance, by 0.43 at most.
_TELLS = 0.5


def sides(grid: Grid, extra: int) -> Iterator[Layout]:
    """Yield the ways in which so many tokens without a place may stand around a grid."""
    if extra <= FEW or min(grid) >= _SMALLEST:
        for before in range(max(0, extra - FEW), min(extra, FEW) + 1):
            yield Layout("tokens", grid, before, extra - before)


@dataclass(frozen=True)
class Open:
    """An answer of tokens, some of which have no place: on which side these stand is still to be told."""

    ways: tuple[Layout, ...]  # where the largest changes lie on the squares
    fits: Mapping[Layout, float]  # how well all changes do, of every way: 1 where each square changes its places alone
    likeness: float = 1.0  # of the places' own changes to the squares, in the best way
    certain: Layout | None = None  # the way whose tokens without a place no picture changes


def unmoved(one: Tensor, other: Tensor, ways: Iterable[Layout]) -> Layout | None:
    """Return the way whose tokens without a place, and no others, are the same for two pictures (T, C); None: none is.

    In a network's first layers these are what was learnt, whatever the picture.
    """
    change = (one - other).abs().sum(1)
    same = change <= _NOTHING * change.max()
    for way in ways:
        expected = torch.ones_like(same)
        expected[way.prefix : len(same) - way.suffix] = False
        if bool((same == expected).all()):
            return way
    return None


def fits_of(
    changes: Tensor, ways: Sequence[Layout], squares: Sequence[Grid], cells: int
) -> tuple[dict[Layout, float], float]:
    """Return how well changes lie on the squares, with each way of one grid and as many tokens.

    Beside it, the same for the places' changes alone in the best way, which tokens without a place do not lessen.

    Args:
        changes: how much each token changes with each square, (squares, tokens).
        ways: where the grid may begin; at least one.
        squares: row and column of each, of `cells` on each axis.
        cells: squares that the picture has on each axis.
    """
    own, covered = _own(changes), _squares(ways[0].grid, squares, cells).to(changes)
    most, fits, likeness = covered.norm(dim=1).sum(), {}, 0.0
    for way in ways:
        places = own[:, way.prefix : way.prefix + covered.shape[1]]
        on = (places * covered).sum(1)
        # Squares of little effect tell as much as others.
        fits[way], alone = (float((on / each.norm(dim=1).clamp(min=1e-30)).sum() / most) for each in (own, places))
        likeness = max(likeness, alone)
    return fits, likeness


def told(met: Iterable[Open], squares: Sequence[Grid], cells: int) -> set[Layout]:
    """Return the ways that hold, of each grid with as many tokens, given all such answers of one network.

    They stand on the same side in all layers. In the first ones each square changes its own places alone: those with
    the best fits count, where no token is seen to depend on no picture. Deep in a network, where every token has seen
    all others, changes tell little; where no layer tells more, such answers are no maps.
    """
    alike: defaultdict[tuple[Grid, int], list[Open]] = defaultdict(list)
    for one in met:
        way = one.ways[0]
        alike[way.grid, way.prefix + way.suffix].append(one)
    found = set()
    for (grid, extra), seen in alike.items():
        if certain := [one.certain for one in seen if one.certain is not None]:
            found.add(certain[0])
            continue
        if max(one.likeness for one in seen) < _TELLS:
            continue
        all_fits = [one.fits for one in seen]
        most = max(max(fits.values()) for fits in all_fits)
        clearest = [fits for fits in all_fits if max(fits.values()) >= _CLEAREST * most]
        fits = {way: sum(one[way] for one in clearest) for way in clearest[0]}
        best = max(fits, key=fits.__getitem__)
        covered = _squares(grid, squares, cells)
        beside = float((covered[:, 1:] * covered[:, :-1]).sum() / covered.square().sum())
        lead = fits[best] - max((fit for way, fit in fits.items() if way != best), default=0.0)
        if fits[best] > 0 and lead >= _CLEAR * (1 - beside) * fits[best]:
            found.add(best)
        elif (leading := Layout("tokens", grid, extra)) in fits and fits[leading] >= _ALIKE * fits[best] > 0:
            found.add(leading)  # where they nearly always stand
    return found


def _squares(grid: Grid, squares: Sequence[Grid], cells: int) -> Tensor:
    """Return which places each square covers, less what all of them do: (squares, places)."""
    (height, width) = grid
    covered = [_covered(i, height, cells)[:, None] * _covered(j, width, cells) for i, j in squares]
    return _own(torch.stack(covered).flatten(1))


def _own(changes: Tensor) -> Tensor:
    """Return changes (squares, ...) less what all squares have in common, as tokens that look at all of the picture."""
    return changes - changes.mean(0)


def _covered(square: int, count: int, cells: int) -> Tensor:
    """Return which share of each of so many places on an axis lies in a square of it, (count,)."""
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    low, high = square / cells, (square + 1) / cells
    return (edges[1:].clamp(max=high) - edges[:-1].clamp(min=low)).clamp(min=0) * count

"""Where in an output the picture's places are, found by changing one square of the picture at a time.

An output is a grid where it changes most at the place of the square that was changed: as (C, h, w), as (h, w, C), as
tokens among a few before and behind them that have no place, or as (C, h * w). One input size is enough, and no
architecture is named. Several squares have to agree, so that nothing is taken for a grid by chance.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from torch import Tensor

from service.contract import Layout
from service.engine.network.places import tokens
from service.engine.network.places.tokens import EXTRA, FEW, Open, fits_of, unmoved

Place = tuple[int, int]
SQUARES: tuple[Place, ...] = ((1, 1), (1, 6), (6, 1), (6, 6), (2, 4), (4, 2))  # row and column, of 8 x 8
CELLS = 8
_AGREEING = 5  # squares at whose place an output has to change most
_SOME = 3  # the same, where an output changes everywhere: chance has that in one of a hundred
_LEAST = 1e-2  # of the largest change: cells that change less say nothing
_ROUNDINGS = tuple(c / 8 for c in range(8, -25, -1))  # of patches side by side, padded, and of overlapping ones
_PROPORTION = 0.7  # largest logarithm of a grid's proportions over the picture's: about twice as wide, or half
_ENOUGH = 24  # places on an axis, three of them in a square: the others of large maps are looked at where these fail
FINE = 4  # places on each axis, from which on squares are told apart for sure
_ADDS_UP = 1e-3  # of a sum
STEP = 2.0  # that a square is brighter by, in deviations: far more than floating point loses on the way


def changed(picture: Tensor) -> Tensor:
    """Return a picture (1, C, H, W), and it with each square changed: (7, C, H, W)."""
    height, width = picture.shape[2:]
    rows = picture.repeat(1 + len(SQUARES), 1, 1, 1)
    for row, (i, j) in enumerate(SQUARES, 1):
        ys = slice(i * height // CELLS, (i + 1) * height // CELLS)
        xs = slice(j * width // CELLS, (j + 1) * width // CELLS)
        rows[row, :, ys, xs] += STEP
    return rows


def told(met: Iterable[Open]) -> set[Layout]:
    """Return the ways that hold of such answers of one network, in which some tokens have no place."""
    return tokens.told(met, SQUARES, CELLS)


def grid_of(output: Tensor, size: tuple[int, int]) -> Layout | None:
    """Return how an output (N, ...) of `changed` pictures of that size holds a grid; None where it holds none.

    Rows behind those of `changed` do not count.
    """
    found = seen_of(output, size)
    if isinstance(found, Open):
        return next((way for way in told([found]) if way in found.ways), None)
    return found


def seen_of(output: Tensor, size: tuple[int, int]) -> Layout | Open | None:
    """Return how an output (N, ...) holds a grid, as `grid_of`; None where it holds none.

    Where some tokens have no place, it is open on which side these stand.
    """
    rows = 1 + len(SQUARES)
    if output.ndim not in (3, 4) or not output.is_floating_point() or len(output) < rows:
        return None
    best: tuple[tuple[float, float], Layout | Open] | None = None
    found = _Changes(output[:rows])
    for layout in _layouts(output.shape, size):
        if min(layout.grid) < 2 or (layout.suffix > FEW and best is not None):
            continue  # few tokens without a place are likelier than many around a smaller grid
        # A row more or less of leading tokens moves all places by little: proportions tell such grids apart.
        off = round(abs(math.log(layout.grid[0] * size[1] / (layout.grid[1] * size[0]))), 1)
        if off > _PROPORTION or (best is not None and off > best[0][0]):
            continue  # before any number is looked at
        ways = list(tokens.sides(layout.grid, layout.suffix)) if layout.suffix else [layout]
        misses = {way: miss for way in ways if (miss := found.miss(way)) is not None}
        if not misses:
            continue
        seen: Layout | Open = layout
        miss = next(iter(misses.values()))
        if layout.suffix:
            fits, likeness = fits_of(found.tokens(), ways, SQUARES, CELLS)
            certain = unmoved(output[0], output[-1], ways) if len(output) > rows else None
            seen = Open(tuple(misses), fits, likeness, certain)
            miss = misses.get(max(ways, key=fits.__getitem__), max(misses.values()))
        if best is None or (off, miss) < best[0]:
            best = (off, miss), seen
    return None if best is None else best[1]


def attends(maps: Tensor) -> bool:
    """Whether maps (N, C, h, w) are an attention of tokens to tokens: each row of it adds up to one."""
    return _adds_up(maps[:1, :1]) and _adds_up(maps[:1])


def turned(maps: Tensor) -> bool:
    """Whether maps (N, C, h, w) of `changed` pictures are those of a picture that was mirrored or turned on the way.

    They change most where the square went.
    """
    height, width = maps.shape[2:]
    if min(height, width) < FINE or len(maps) <= len(SQUARES):
        return False
    places = _Changes(maps[: 1 + len(SQUARES)])._places(Layout("chw", (height, width)), 1)
    if _miss(places, (height, width)) is not None:
        return False
    last = CELLS - 1
    turns = [
        [
            (last - y if up else y, last - x if across else x)
            for y, x in (((j, i) if turned else (i, j)) for i, j in SQUARES)
        ]
        for turned, up, across in product((False, True), repeat=3)
    ]
    return any(_miss(places, (height, width), squares=squares) is not None for squares in turns[1:])


def scattered(maps: Tensor) -> bool:
    """Whether maps (N, C, h, w) of `changed` pictures, in which no grid was found, are none of the picture's places.

    Behind a gate by all of the picture each cell changes with each square, and in each channel alike, whichever it is.
    What a square changes beside that still lies at its place; of frequencies, or of places that are sorted or shuffled,
    it lies anywhere.
    """
    height, width = maps.shape[2:]
    if min(height, width) < FINE or len(maps) <= len(SQUARES):
        return False
    seen = maps[: 1 + len(SQUARES)].flatten(2).float()
    d = seen[1:] - seen[:1]  # (6, C, places)
    d -= d.mean(2, keepdim=True)
    others = d.sum(0) - d
    share = (d * others).sum(2, keepdim=True) / others.square().sum(2, keepdim=True).clamp(min=1e-30)
    places = (d - share * others).abs_().sum(1)  # (6, places)
    usual = places.mean(0)
    if not usual.any():
        return False  # it does not look at the picture at all
    return _miss(places / (usual + _LEAST * usual.max()), (height, width), agreeing=_SOME) is None


def _adds_up(maps: Tensor) -> bool:
    return maps.shape[3] > 1 and bool((maps >= 0).all() and ((maps.sum(3) - 1).abs() < _ADDS_UP).all())


class _Changes:
    """How much an output (7, ...) changes at each of its places, by where its channels are.

    Channels are added up once for each axis that they may be on, not for each layout that is tried.
    """

    def __init__(self, output: Tensor) -> None:
        self.output = output
        self._summed: dict[tuple[int, int], Tensor] = {}

    def miss(self, layout: Layout) -> float | None:
        """Return how far off the largest changes are, in shares of the picture; None where too many are off.

        Of large maps some places are looked at first, and all of them where these show no grid.
        """
        step = max(1, min(layout.grid) // _ENOUGH) if layout.axes in ("chw", "hwc") else 1
        miss = _miss(self._places(layout, step), layout.grid, step)
        return _miss(self._places(layout, 1), layout.grid) if miss is None and step > 1 else miss

    def tokens(self) -> Tensor:
        """Return the changes (6, T) of an output (7, T, C), of all tokens."""
        return self._places(Layout("tokens", (1, self.output.shape[1])), 1)

    def _places(self, layout: Layout, step: int) -> Tensor:
        """Return the changes (6, places), of every so manieth place on both axes."""
        axis = {"chw": 1, "hwc": 3, "tokens": 2, "ct": 1}[layout.axes]
        if (axis, step) not in self._summed:
            seen = self.output
            if step > 1:
                seen = seen[:, :, ::step, ::step] if axis == 1 else seen[:, ::step, ::step]
            self._summed[axis, step] = (seen[1:] - seen[:1]).abs_().sum(axis)
        places = self._summed[axis, step]
        if layout.axes == "tokens":
            places = places[:, layout.prefix : layout.prefix + layout.grid[0] * layout.grid[1]]
        return places.flatten(1)


def _layouts(shape: Sequence[int], size: tuple[int, int]) -> Iterator[Layout]:
    """Yield the layouts that a shape allows; where some tokens have no place, they may be on either side."""
    if len(shape) == 4:
        yield Layout("chw", (shape[2], shape[3]))
        yield Layout("hwc", (shape[1], shape[2]))
        return
    for extra in range(EXTRA + 1):
        if grid := _grid(shape[1] - extra, size):
            yield Layout("tokens", grid, suffix=extra)
    if grid := _grid(shape[2], size):
        yield Layout("ct", grid)


def _grid(cells: int, size: tuple[int, int]) -> Place | None:
    """Return height and width of a grid of so many cells that square patches of the picture can have."""
    if cells < 4:
        return None
    height = round((cells * size[0] / size[1]) ** 0.5)
    if height < 2 or height * (cells // height) != cells:
        return None
    grid = height, cells // height
    return grid if _of_patches(grid, size) else None


def _of_patches(grid: Place, size: tuple[int, int]) -> bool:
    """Whether patches of one side p, rounded alike on both axes, give so many: floor(size / p + c) for some p and c.

    c is 0 where patches lie side by side, and 1 + (2 padding - kernel) / stride where they overlap. Eight rows of eight
    tokens are no seven rows behind eight tokens without a place: no patch of a square picture gives 7 x 8.
    """
    for c in _ROUNDINGS:
        least = max(side / (n + 1 - c) for n, side in zip(grid, size, strict=True))  # p is larger than this
        if least < min(side / (n - c) for n, side in zip(grid, size, strict=True)):
            return True
    return False


def _miss(
    places: Tensor, grid: Place, step: int = 1, squares: Sequence[Place] = SQUARES, agreeing: int = _AGREEING
) -> float | None:
    """Return how far off the largest changes are, in shares of the picture; None where too many are off.

    Args:
        places: changes (6, places), of every `step`-th place on both axes.
        grid: height and width of all of them.
        step: between places.
        squares: where they should be.
        agreeing: how many of them have to be.
    """
    (height, width), across = grid, -(-grid[1] // step)
    peaks = places.argmax(1).tolist()
    far = [
        max(
            abs((peak // across * step + 0.5) / height - (i + 0.5) / CELLS),
            abs((peak % across * step + 0.5) / width - (j + 0.5) / CELLS),
        )
        for peak, (i, j) in zip(peaks, squares, strict=True)
    ]
    near = 1 / CELLS + 0.5 * step / min(height, width)
    return sum(far) if sum(one <= near for one in far) >= agreeing else None


@dataclass(frozen=True)
class Candidate:
    """A layer with maps that may be the default one."""

    path: str
    same: int  # equal for layers that answer with the same tensor
    grid: bool  # found by changing squares; else only because its size follows the input's
    follows: bool  # whether its size follows the input's
    reach: float | None  # share of its cells that the score's gradient reaches; None: no gradient gets there
    linear: bool  # a linear projection: its axes are whatever training made of them
    pooled: bool


REACHED = 0.9  # share of cells


def default_layer(candidates: Sequence[Candidate]) -> str | None:
    """Return the layer that stands for a network, of candidates in the order of the forward.

    It is the last one, not of a linear projection and not only a pool of an earlier one, that is a grid in nearly all
    of whose cells the score has a gradient (where it has not, only a class token is read later on), or whose size
    follows the input's and where the score has a gradient at all.
    """
    fit = [c for c in candidates if not c.linear and not c.pooled]
    reached = [c for c in fit if c.reach and (c.follows or c.reach >= REACHED)]
    for chosen in (
        reached,
        [c for c in fit if c.reach],
        [c for c in fit if c.reach is not None],
        fit,
        list(candidates),
    ):
        if chosen:
            # Modules answer from the inside out: the last name of a tensor is its outermost, `layer4`, not `layer4.1`.
            return [c.path for c in candidates if c.same == chosen[-1].same][-1]
    return None


def reach(gradient: Tensor | None, layout: Layout) -> float | None:
    """Return the share of cells, of the first row, that a gradient (N, ...) is not zero in."""
    if gradient is None:
        return None
    return float(layout.maps(gradient[:1]).abs().sum(1).ne(0).float().mean())


def follows(shape: Sequence[int], other: Sequence[int] | None) -> bool:
    """Whether an output (C, h, w) is (C', h', w') on an input of another width: so is its width, its channels are not.

    A pool to a fixed size is as it was, and has maps all the same.
    """
    if other is None or len(shape) != 3 or len(other) != 3 or shape[1] * shape[2] < 2 or shape[0] != other[0]:
        return False
    return other[2] != shape[2] or (tuple(other) == tuple(shape) and shape[1] == shape[2])

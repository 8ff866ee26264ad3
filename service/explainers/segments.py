"""Parts of a picture that methods hide, score or grow together: superpixels, and squares of a grid.

Labels (H, W) are whole numbers from 0 on without gaps, on the CPU, where they come out the same for the same picture
however many threads there are: no sum is taken in an order that could change.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from service.contract import still_wanted

Cut = Literal["slic", "squares"]


def grid(size: tuple[int, int], count: int) -> tuple[int, int]:
    """Return how many rows and columns of cells cut a picture (H, W) into at most `count` parts.

    Of all grids it is the one nearest to `count` square cells; there are at least two cells where there are two pixels.
    """
    height, width = size

    def fault(rows: int) -> tuple[float, int]:
        columns = min(count // rows, width)
        aspect = (height / rows) / (width / columns)
        few = rows * columns < min(2, height * width)
        return (math.inf if few else math.log(count / (rows * columns)) + abs(math.log(aspect)) / 2), rows

    rows = min(range(1, min(count, height) + 1), key=fault)
    return rows, min(count // rows, width)


def squares(size: tuple[int, int], count: int) -> Tensor:
    """Return labels (H, W) of a grid of at most `count` cells, row by row, whose sides differ by a pixel at most."""
    return _cells(size, grid(size, count))


def slic(picture: Tensor, count: int, compactness: float = 10.0, rounds: int = 10) -> Tensor:
    """Return labels (H, W) of at most `count` connected superpixels: SLIC, Achanta et al. 2012, section 3.

    k-means of colour and place, D^2 = |colour|^2 + m^2 |place / S|^2, with colours in CIELAB, S the side of a grid's
    cell and m the compactness. Centres start as the cells' means. Each pixel chooses among the centres that began in
    the nine cells around it (Ren & Reid 2011), which bounds the search as the paper's window does and needs no loop
    over centres. What a superpixel has apart from its largest piece goes to the neighbours that it is most like.

    Args:
        picture: (3, H, W) in 0..1, sRGB; what is beyond is clipped.
        count: of superpixels, at most; a few fewer where a cell loses all of its pixels.
        compactness: m, in units of CIELAB; the larger, the more they are like squares.
        rounds: of k-means; the paper finds ten to be enough.
    """
    size = picture.shape[1], picture.shape[2]
    sides = grid(size, count)
    cells = _cells(size, sides)
    rows, columns = (torch.arange(n) / n * k * compactness for n, k in zip(size, sides, strict=True))
    place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    x = torch.cat([lab(picture.detach().cpu().float().clamp(0, 1)), place]).flatten(1)  # (5, HW)
    near = _around(cells.flatten(), sides)  # (9, HW)
    labels, centres = cells.flatten(), x
    for _ in range(rounds):
        still_wanted()
        centres = _means(x, labels, sides[0] * sides[1])
        nearest = torch.full_like(x[0], math.inf)
        for candidates in near:
            distance = _distance(x, centres[:, candidates])
            labels = torch.where(distance < nearest, candidates, labels)
            nearest = torch.minimum(distance, nearest)
    numbered: Tensor = torch.unique(_connected(labels.view(size), x, centres), return_inverse=True)[1]
    return numbered


def cut(picture: Tensor, kind: Cut, count: int) -> Tensor:
    """Return labels (H, W) of a picture (3, H, W) in 0..1, cut into at most `count` parts."""
    return slic(picture, count) if kind == "slic" else squares((picture.shape[1], picture.shape[2]), count)


def lab(rgb: Tensor) -> Tensor:
    """Return colours (3, ...) in 0..1, sRGB, as CIELAB of a D65 white (IEC 61966-2-1, CIE 15): L in 0..100."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    red, green, blue = linear
    xyz = torch.stack(
        [
            (0.412453 * red + 0.357580 * green + 0.180423 * blue) / 0.95047,
            0.212671 * red + 0.715160 * green + 0.072169 * blue,
            (0.019334 * red + 0.119193 * green + 0.950227 * blue) / 1.08883,
        ]
    )
    x, y, z = torch.where(xyz > 216 / 24389, xyz ** (1 / 3), (24389 / 27 * xyz + 16) / 116)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def _cells(size: tuple[int, int], sides: tuple[int, int]) -> Tensor:
    """Return which cell of a grid each pixel lies in, (H, W)."""
    y, x = (torch.arange(n) * k // n for n, k in zip(size, sides, strict=True))
    return y[:, None] * sides[1] + x


def _around(cells: Tensor, sides: tuple[int, int]) -> Tensor:
    """Return the nine cells around each of many (n,), itself where there is none: (9, n)."""
    y, x = cells // sides[1], cells % sides[1]
    found = []
    for dy, dx in ((0, 0), (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        inside = (y + dy >= 0) & (y + dy < sides[0]) & (x + dx >= 0) & (x + dx < sides[1])
        found.append(torch.where(inside, cells + dy * sides[1] + dx, cells))
    return torch.stack(found)


def _means(x: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return each label's mean (5, count) of points (5, n); one without points is infinitely far away."""
    number = torch.bincount(labels, minlength=count)
    totals = torch.stack([torch.bincount(labels, one, count) for one in x.double()])
    return torch.where(number > 0, totals / number, math.inf).float()


def _distance(x: Tensor, centres: Tensor) -> Tensor:
    """Return squared distances (n,) of points and centres (5, n), added up in order."""
    total = (x[0] - centres[0]) ** 2
    for a, b in zip(x[1:], centres[1:], strict=True):
        total = total + (a - b) ** 2
    return total


def components(labels: Tensor) -> Tensor:
    """Return the first pixel of each pixel's piece, (H, W): pieces are of one label, joined by pixels' sides."""
    across, down = labels[:, 1:] == labels[:, :-1], labels[1:] == labels[:-1]
    found = torch.arange(labels.numel()).view(labels.shape)
    while True:
        least = found.clone()
        for joined, one, other in ((across, least[:, 1:], least[:, :-1]), (down, least[1:], least[:-1])):
            both = torch.where(joined, torch.minimum(one, other), labels.numel())
            one.copy_(torch.minimum(one, both))
            other.copy_(torch.minimum(other, both))
        least = least.flatten()[least]  # as far as that pixel has come already
        if torch.equal(least, found):
            return found
        found = least


def _connected(labels: Tensor, x: Tensor, centres: Tensor) -> Tensor:
    """Return labels (H, W) of which each keeps its largest piece alone; pixels (5, HW) of others go to neighbours."""
    pieces = components(labels).flatten()
    flat, pixels = labels.flatten(), labels.numel()
    # Of pieces of one size it is the first one.
    rank = torch.bincount(pieces, minlength=pixels)[pieces] * pixels + (pixels - 1 - pieces)
    best = torch.zeros(int(flat.max()) + 1, dtype=rank.dtype).scatter_reduce_(0, flat, rank, "amax")
    kept = torch.where(rank == best[flat], flat, -1).view(labels.shape)
    while bool((kept < 0).any()):
        still_wanted()
        bordered = torch.nn.functional.pad(kept, (1, 1, 1, 1), value=-1)
        sides = (bordered[:-2, 1:-1], bordered[1:-1, :-2], bordered[1:-1, 2:], bordered[2:, 1:-1])
        homeless = (kept.flatten() < 0).nonzero()[:, 0]
        taken = torch.full_like(homeless, -1)
        nearest = torch.full((len(homeless),), math.inf)
        for side in sides:
            label = side.flatten()[homeless]
            distance = torch.where(label < 0, math.inf, _distance(x[:, homeless], centres[:, label.clamp(min=0)]))
            taken = torch.where(distance < nearest, label, taken)
            nearest = torch.minimum(distance, nearest)
        kept.view(-1)[homeless] = taken
    return kept

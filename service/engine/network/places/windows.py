"""Where the cells of a grid look, to the pixel, as the gradients of two of them at the picture show it."""

from typing import NamedTuple

from torch import Tensor

_REST = 2  # cells, as wide as which pixels at the end may be left unread: by strides of several layers
_ALIKE = 2  # pixels, by which windows of resized pictures differ in their sizes
_SLACK = 0.5, 1.5  # pixels, of windows a whole number of pixels apart, and of others, as in resized pictures
_STEP = 0.25  # cells, that windows are apart at least


class Window(NamedTuple):
    """The pixels of one axis that a cell looks at: from the first to the one behind the last."""

    cell: int
    begins: int
    ends: int


def pair(cells: int) -> tuple[int, int]:
    """Return two cells of an axis of four or more, a quarter of it from either end."""
    return cells // 4, cells - 1 - cells // 4


def spans(gradient: Tensor, cells: tuple[int, int]) -> tuple[Window, Window] | None:
    """Return the windows, by rows and by columns, of a cell whose gradient at the picture is (1, C, H, W)."""
    reached = gradient[0].ne(0).any(0)
    found = []
    for cell, at in zip(cells, (reached.any(1), reached.any(0)), strict=True):
        where = at.nonzero().flatten().tolist()
        if not where:
            return None
        found.append(Window(cell, where[0], where[-1] + 1))
    return found[0], found[1]


def in_place(one: Window, other: Window, cells: int, side: int) -> bool | None:
    """Whether the first and the last cell of an axis look at their own places, given the windows of two in between.

    None: it cannot be told, as these are no windows of one size a step apart; what ends at the picture's edge is cut.
    """
    apart, cell = other.cell - one.cell, side / cells
    if min(one.begins, other.begins) <= 0 or max(one.ends, other.ends) >= side:
        return None
    if abs((other.ends - other.begins) - (one.ends - one.begins)) > _ALIKE or apart < 1:
        return None
    step = (other.begins + other.ends - one.begins - one.ends) / (2 * apart)
    if step < _STEP * cell:
        return None
    begins, ends = one.begins - one.cell * step, one.ends - one.cell * step  # of the first cell
    last, slack = (cells - 1) * step, _SLACK[step != int(step)]
    first = begins <= cell / 2 + slack and ends >= cell / 2 - slack
    return first and begins + last <= side - cell / 2 + slack and ends + last >= side - _REST * cell - slack


def unread(gradient: Tensor) -> tuple[int, int, int, int] | None:
    """Return how many rows and columns of a picture nothing of the score depends on: above, below, left and right.

    Args:
        gradient: of the score, at the picture, (1, C, H, W).

    Returns:
        None where it depends on none of them.
    """
    found = spans(gradient, (0, 0))
    if found is None:
        return None
    rows, columns = found
    return rows.begins, gradient.shape[2] - rows.ends, columns.begins, gradient.shape[3] - columns.ends

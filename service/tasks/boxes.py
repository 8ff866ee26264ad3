"""Whether a detector's boxes are what they are taken for: places in pixels of the input, with scores 0 to 1."""

from collections.abc import Callable

from torch import Tensor

from service.errors import CatalogError

_TOLERANCE = 1e-3  # of a score, and in pixels
_STEPS = ((256, 32), (64, 8), (0, 4))  # least side of an input, and pixels that networks of such inputs may go on by
_SHARES = 1.5  # pixels within which no detector finds all that it finds


def classless(found: Tensor) -> Tensor:
    """Return those of detections (D, 6) whose class is no whole number from 0 on."""
    classes = found[:, 5]
    return found[(classes < 0) | (classes != classes.round())]


def check_boxes(raw: Tensor, size: tuple[int, int]) -> None:
    """Check detections (N, D, 6) of an input (H, W): x0, y0, x1, y1, score and class; zeros fill up.

    Raises:
        CatalogError: they are written in another way; the message says in which, and how to write them.
    """
    found = raw.flatten(0, 1)
    found = found[(found != 0).any(1)]
    if not len(found):
        return
    corners, score = found[:, :4], found[:, 4]
    low, high = float(score.min()), float(score.max())
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise CatalogError(
            f"the scores of its boxes lie between {low:.3g} and {high:.3g}, and not between 0 and 1; let it return "
            "their sigmoid where they are logits, and a hundredth where they are percentages"
        )
    if len(wrong := classless(found)):
        raise CatalogError(
            f"{len(wrong)} of {len(found)} boxes have a class that is no number from 0 on (such as "
            f"{float(wrong[0, 5]):.3g}); let it return whole numbers, with a score of 0 for boxes that fill up"
        )
    inverted = (corners[:, 2:] < corners[:, :2] - _TOLERANCE).any(1)
    if inverted.any():
        raise CatalogError(
            f"{int(inverted.sum())} of {len(found)} boxes end before they begin (such as "
            f"{_told(corners[inverted][0])}), as those do that are x, y, width and height, or a centre; let it return "
            "x0, y0, x1, y1, as torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], 1) makes of x, y, width and height, and "
            "leave out empty boxes"
        )
    height, width = size
    if float(corners.abs().max()) <= _SHARES:
        raise CatalogError(
            f"all boxes lie within {_SHARES} pixels (such as {_told(corners[0])}), as shares of the picture do; let it "
            f"return pixels of the input, as boxes * boxes.new_tensor([{width}, {height}, {width}, {height}])"
        )
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    outside = ((centres < 0) | (centres > centres.new_tensor([width, height]))).any(1)
    if 2 * int(outside.sum()) > len(found):
        raise CatalogError(
            f"{int(outside.sum())} of {len(found)} boxes have their centre outside of the input of {height} x {width} "
            f"(such as {_told(corners[outside][0])}); let it return pixels of the input, and not of another size"
        )


def shifts_of(size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Return by how many pixels, (down, right), to move pictures of an input (H, W) for `check_moves`."""
    step = next(step for side, step in _STEPS if min(size) >= side)
    return (step, 2 * step), (-step, -2 * step)


def check_moves(
    before: Tensor, moved: Callable[[tuple[int, int]], Tensor], size: tuple[int, int], enough: int = 2
) -> None:
    """Check that boxes move as their pictures do; where they move in no way that is known, nothing is said.

    Args:
        before: detections (N, D, 6) in some pictures.
        moved: (down, right) -> those in the same pictures, moved by so many pixels; it may raise anything.
        size: (H, W) of the inputs.
        enough: boxes that have to agree.

    Raises:
        CatalogError: they move as boxes do that are written in another way, and none as corners do.
    """
    ways: list[str] = []
    for shift in shifts_of(size):
        try:
            after = moved(shift)
        except (Exception, SystemExit):  # of the network's own
            return
        ways += [way for a, b in zip(before, after, strict=True) if (way := _way(a, b, shift, size))]
        if "corners" in ways:
            return
    if len(ways) >= enough and len(set(ways)) == 1:
        raise CatalogError(f"where a picture is moved, the surest box in it {_WRITTEN[ways[0]]}")


# How boxes move that are no corners x0, y0, x1, y1, and what to do about it.
_WRITTEN = {
    "extents": "begins elsewhere and ends where it did, as one does of x, y, width and height; let it return x0, y0, "
    "x1, y1, as torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], 1) makes of x, y, width and height, and torch.cat([b[:, :2] "
    "- b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1) of a centre, width and height",
    "rows first": "goes down where the picture goes to the right; let it return x0, y0, x1, y1, as b[:, [1, 0, 3, 2]] "
    "makes of y0, x0, y1, x1",
    "scaled": "moves by another length; let it return pixels of the input, and not of another size",
}


def _way(before: Tensor, after: Tensor, shift: tuple[int, int], size: tuple[int, int]) -> str | None:
    """Return how the surest of one picture's detections (D, 6) moves with it; None where that tells nothing."""
    there = [found[found[:, 4].argmax()] for found in (before, after) if len(found)]
    if len(there) < 2 or min(float(box[4]) for box in there) <= 0 or there[0][5] != there[1][5]:
        return None
    (down, right), tolerance = shift, max(1.0, abs(shift[0]) / 10)
    moved = (there[1][:4] - there[0][:4]).tolist()

    def by(*expected: float) -> bool:
        return all(abs(a - b) <= tolerance for a, b in zip(moved, expected, strict=True))

    if by(right, down, right, down):
        return "corners"
    if by(down, right, down, right):
        return "rows first"
    # A box that is cut off at the border ends there in both pictures, too.
    inside = all(float(box[2]) < size[1] - 1 and float(box[3]) < size[0] - 1 for box in there)
    if inside and by(right, down, 0, 0):
        return "extents"
    factor = moved[0] / right
    scaled = by(*(factor * length for length in (right, down, right, down)))
    return "scaled" if scaled and min(factor, abs(factor - 1)) * abs(down) > 2 * tolerance else None


def _told(box: Tensor) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in box.tolist())}]"

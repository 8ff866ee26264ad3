"""Whether a detector's boxes are what they are taken for: places in pixels of the input, with scores 0 to 1."""

from torch import Tensor

from service.errors import CatalogError

_TOLERANCE = 1e-3  # of a score, and in pixels
_SHARES = 1.5  # pixels within which no detector finds all that it finds


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


def _told(box: Tensor) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in box.tolist())}]"

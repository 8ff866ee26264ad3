"""Boxes in a list of one dictionary a picture, under whatever names: what they are, their shapes and kinds tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_SURE = ("score", "conf", "prob")  # in the name of what says how sure a detection is
Found = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Listed:
    """Which items of each picture's dictionary are boxes (D, 4), scores (D,) and labels (D,) of its detections."""

    boxes: str = "boxes"
    scores: str = "scores"
    labels: str = "labels"

    @staticmethod
    def of(returned: Any, rows: int) -> "Listed | None":
        """Return how to read what a network returned for so many rows; None where these are no boxes.

        Boxes (D, 4) have a score and a label each.
        """
        if not isinstance(returned, list | tuple) or len(returned) != rows:
            return None
        if not all(isinstance(one, Mapping) for one in returned):
            return None
        if all(_holds(one, Listed()) for one in returned):
            return Listed()
        known = [found for one in returned if (found := _shaped(one)) is not None]
        fitting = [found for found in known if all(_holds(one, found) for one in returned)]
        return fitting[0] if fitting else None

    def __call__(self, found: Found) -> Tensor:
        """Return detections as (N, D, 6): x0, y0, x1, y1, score, class; zeros where a picture has fewer than D.

        Where nothing is detected, boxes may have lost their axis of four. In half precision a class would be another
        one.
        """
        rows = [
            torch.cat(
                [one[self.boxes].float().reshape(-1, 4)]
                + [one[name].float().reshape(-1, 1) for name in (self.scores, self.labels)],
                1,
            )
            for one in found
        ]
        most = max(len(row) for row in rows)
        return torch.stack([F.pad(row, (0, 0, 0, most - len(row))) for row in rows])

    def __str__(self) -> str:
        return f"items {self.boxes!r}, {self.scores!r} and {self.labels!r} of each picture's"


def _holds(one: Mapping[str, Any], found: Listed) -> bool:
    boxes, *beside = (one.get(name) for name in (found.boxes, found.scores, found.labels))
    if not isinstance(boxes, Tensor) or boxes.numel() % 4:
        return False
    return all(isinstance(value, Tensor) and value.numel() * 4 == boxes.numel() for value in beside)


def _shaped(one: Mapping[str, Any]) -> Listed | None:
    """Return which items of a picture's dictionary are what, by their shapes; None where that is not told."""
    tensors = {name: value for name, value in one.items() if isinstance(value, Tensor)}
    boxes = [n for n, v in tensors.items() if v.ndim == 2 and v.shape[1] == 4 and len(v) and v.is_floating_point()]
    if len(boxes) != 1:
        return None
    beside = {name: value for name, value in tensors.items() if value.shape == tensors[boxes[0]].shape[:1]}
    real = [name for name, value in beside.items() if value.is_floating_point()]
    scores = [name for name in real if any(word in str(name).lower() for word in _SURE)] or real
    labels = [n for n, value in beside.items() if n not in real and value.dtype != torch.bool]
    return Listed(boxes[0], scores[0], labels[0]) if len(scores) == len(labels) == 1 else None

"""Boxes of all pictures in three tensors, as exported detectors answer: as many a picture, filled up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.errors import CatalogError

Item = str | int


@dataclass(frozen=True)
class Batched:
    """How to read boxes (N, D, 4), scores (N, D) and labels (N, D) as detections (N, D, 6)."""

    boxes: Item
    scores: Item
    labels: Item

    @staticmethod
    def of(held: Mapping[Any, Any], rows: int, name: str) -> "Batched | None":
        """Return how to read what a network returned for so many rows; None where these are no boxes.

        Raises:
            CatalogError: they are, and nothing says which are their scores and which their labels.
        """
        tensors = {
            key: value for key, value in held.items() if isinstance(value, Tensor) and value.shape[:1] == (rows,)
        }
        distinct: dict[int, Item] = {}
        for key, value in tensors.items():  # a named tuple holds each of its items twice
            distinct.setdefault(id(value), key)
        own = {key: tensors[key] for key in distinct.values()}
        boxes = [k for k, v in own.items() if v.ndim == 3 and v.shape[2] == 4 and v.is_floating_point()]
        if len(boxes) != 1:
            return None
        count = own[boxes[0]].shape[:2]
        beside = [key for key, value in own.items() if value.shape == count]
        real = [key for key in beside if own[key].is_floating_point()]
        whole = [key for key in beside if key not in real]
        if "scores" in beside and "labels" in beside:
            return Batched(boxes[0], "scores", "labels")
        if len(real) == 1 and len(whole) == 1:
            return Batched(boxes[0], real[0], whole[0])
        if not real:
            return None
        seen = ", ".join(f"{key!r} {tuple(value.shape)}" for key, value in own.items())
        raise CatalogError(
            f"model {name!r} returned {seen}, which may be boxes, and nothing tells which are their scores and which "
            "their labels; let it return a dictionary of `boxes` (N, D, 4), `scores` (N, D) and `labels` (N, D) of "
            f"whole numbers, or, where it is no detector, name its answer, as output = {real[0]!r}"
        )

    def __call__(self, held: Mapping[Any, Any]) -> Tensor:
        """Return (N, D, 6): x0, y0, x1, y1 in pixels of the input, score and class of each detection."""
        scores, labels = (held[key].float()[:, :, None] for key in (self.scores, self.labels))
        return torch.cat([held[self.boxes].float(), scores, labels], 2)

    def __str__(self) -> str:
        return f"items {self.boxes!r}, {self.scores!r} and {self.labels!r} of what it returns, boxes"

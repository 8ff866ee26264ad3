"""Boxes of queries, as DETR and its kin answer: what each of some queries sees, and where.

Carion et al. 2020, "End-to-End Object Detection with Transformers", section 3.1: the softmax of a query's logits, whose
last one stands for no object. Zhu et al. 2021, "Deformable DETR", and what follows it: a sigmoid of each, and no such
one. Which of the two it is, the number of labels tells.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.errors import CatalogError

_LOGITS = ("logits", "pred_logits")
_BOXES = "pred_boxes"


@dataclass(frozen=True)
class Queries:
    """How to read logits (N, Q, C) and boxes (N, Q, 4) of Q queries as detections (N, Q, 6)."""

    logits: str  # the item that holds them
    size: tuple[int, int]  # (H, W) of the input, that boxes are shares of
    nothing: bool  # whether the last logit stands for no object

    @staticmethod
    def of(held: Mapping[Any, Any], rows: int, size: tuple[int, int], labels: int, name: str) -> "Queries | None":
        """Return how to read what a network returned for so many rows; None where these are no queries.

        Raises:
            CatalogError: they are, and nothing says whether the last logit is a class.
        """
        logits = next((key for key in _LOGITS if isinstance(held.get(key), Tensor)), None)
        boxes = held.get(_BOXES)
        if logits is None or not isinstance(boxes, Tensor):
            return None
        shape = held[logits].shape
        if len(shape) != 3 or shape[0] != rows or tuple(boxes.shape) != (*shape[:2], 4):
            return None
        if labels not in (shape[2] - 1, shape[2]):
            raise CatalogError(
                f"model {name!r} returned boxes of {shape[1]} queries with {shape[2]} logits each, and has {labels} "
                f"labels: give {shape[2] - 1}, where the last logit stands for no object (softmax, as DETR), or "
                f"{shape[2]}, where each is a class of its own (sigmoid, as Deformable DETR)"
            )
        return Queries(logits, size, labels < shape[2])

    def __call__(self, held: Mapping[Any, Any]) -> Tensor:
        """Return (N, Q, 6): x0, y0, x1, y1 in pixels of the input, and score and number of each query's best class."""
        logits: Tensor = held[self.logits].float()  # in half precision a class would be another one
        score, kind = (logits.softmax(2)[:, :, :-1] if self.nothing else logits.sigmoid()).max(2)
        centre, extent = held[_BOXES].split(2, 2)
        height, width = self.size
        corners = torch.cat([centre - extent / 2, centre + extent / 2], 2)
        corners = corners * corners.new_tensor([width, height, width, height])
        return torch.cat([corners, score[:, :, None], kind[:, :, None].to(score)], 2)

    def __str__(self) -> str:
        how = "a softmax whose last one is no object" if self.nothing else "a sigmoid of each"
        return f"boxes of queries, with {how}"

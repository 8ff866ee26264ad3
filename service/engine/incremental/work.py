"""Rows of boxes as work for the device: those of all requests on one network, window and step share a batch."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from service.contract import Boxes, Readout
from service.engine.incremental.clean import Clean
from service.engine.incremental.incremental import Incremental
from service.engine.incremental.planning import Plan
from service.engine.scheduler.work import Network, RowsWork

PAYS = 1.1  # expected time of plain rows over that of boxes


class Rectangles(NamedTuple):
    """Some rows of a `BoxesWork`."""

    clean: Clean
    whole: bool  # whether the first one is the picture itself
    corners: Tensor  # (N, 2) y, x
    patches: Tensor  # (N, 3, h, w)


def plan_of(incremental: Incremental, boxes: Boxes, quicker: float = 1.0) -> Plan | None:
    """Return how to work boxes off; None where plain rows are expected to be as fast.

    All rectangles have the size of the largest box; at an edge they are moved inside. `quicker` is how many times as
    fast plain rows are as the operators that boxes are worked off with.
    """
    if not boxes.boxes:
        return None
    window = max(y1 - y0 for _, y0, _, y1 in boxes.boxes), max(x1 - x0 for x0, _, x1, _ in boxes.boxes)
    height, width = boxes.image.shape[2:]
    corners = [min(y0, height - window[0]) for _, y0, *_ in boxes.boxes]
    corners += [min(x0, width - window[1]) for x0, *_ in boxes.boxes]
    plan = incremental.plan(window, math.gcd(*corners) or 1)
    return plan if plan.gain >= PAYS * quicker else None


class BoxesWork(RowsWork):
    """The outputs of a picture (row 0), and of it with one box each replaced, computed as far as boxes can reach.

    It holds the picture's maps from its first row to its last.
    """

    def __init__(
        self,
        network: Network,
        incremental: Incremental,
        plan: Plan,
        boxes: Boxes,
        *,
        cache_key: Hashable = None,
        readout: Readout | None = None,
    ) -> None:
        super().__init__(network, tuple(boxes.image.shape[1:]), boxes, cache_key=cache_key, readout=readout)
        self.key = ("boxes", id(network), plan.window, plan.step)
        self.memory = incremental.clean_bytes(plan)
        self.incremental, self.plan = incremental, plan
        self.image, self.filling, self.boxes = boxes.image, boxes.filling, boxes.boxes
        self.clean: Clean | None = None

    def build(self, i: int, j: int) -> Rectangles:
        """Return the rectangles of rows i to j; the first time, run the picture itself."""
        if self.clean is None:
            self.clean = self.incremental.clean(self.image, self.plan)
        h, w = self.plan.window
        height, width = self.image.shape[2:]
        corners, patches = [], []
        for x0, y0, x1, y1 in self.boxes[max(i, 1) - 1 : j - 1]:
            # All rectangles have one size: at an edge it is moved inside, and shows the picture beside the box.
            y, x = min(y0, height - h), min(x0, width - w)
            patch = self.image[0, :, y : y + h, x : x + w].clone()
            patch[:, y0 - y : y1 - y, x0 - x : x1 - x] = self.filling[:, y0:y1, x0:x1]
            corners.append((y, x))
            patches.append(patch)
        return Rectangles(
            self.clean,
            i == 0,
            torch.tensor(corners, dtype=torch.long).view(-1, 2),
            torch.stack(patches) if patches else self.image.new_empty(0, self.image.shape[1], h, w),
        )

    def together(self, pieces: Sequence[Rectangles]) -> list[Tensor]:
        """Return the outputs of each piece."""
        counts = [len(piece.patches) for piece in pieces]
        found = pieces[0].clean.outputs[:0]
        if any(counts):
            found = self.incremental.outputs(
                self.plan,
                [piece.clean for piece in pieces],
                torch.repeat_interleave(torch.arange(len(pieces)), torch.tensor(counts)),
                torch.cat([piece.corners for piece in pieces]),
                torch.cat([piece.patches for piece in pieces]),
            )
        return [
            torch.cat([piece.clean.outputs, own]) if piece.whole else own
            for piece, own in zip(pieces, torch.split(found, counts), strict=True)
        ]

    def release(self) -> None:
        """Free the picture's maps."""
        self.clean = None

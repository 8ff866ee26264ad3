"""Occlusion: Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2."""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from service.contract import Box, Boxes, Explanation, Facts, Map, Probe, Targets, fingerprint
from service.explainers.base import Explainer, explainer
from service.explainers.baselines import baseline
from service.explainers.blur import gaussian_blur
from service.explainers.fields import ScoreOf
from service.explainers.rounding import steady


def starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows begin on one axis; the last may hang over the edge and is cut off there."""
    return [i * stride for i in range(max(0, -(-(length - window) // stride)) + 1)]


def coarse_to_fine(rows: int, columns: int) -> list[int]:
    """Return the cells of a grid, in order of reading, such that each beginning is spread over all of it."""

    def coarseness(cell: int) -> int:
        y, x = divmod(cell, columns)
        return (y | x) & -(y | x) or rows * columns  # the largest power of two that divides both

    return sorted(range(rows * columns), key=coarseness, reverse=True)


@explainer(
    "occlusion",
    reference="Zeiler & Fergus 2014, section 4.2",
    requirement="Any model; only its outputs are used.",
    cost="1 forward per position of the square: about (side / stride) squared",
    kind="signed",
)
class Occlusion(Explainer):
    """How far the score drops when a square hides each part of the picture.

    drop = f(X) - f(X with the window filled), for windows on a stride grid, those at the right and lower edge
    cut off there. The map at input size gives each pixel the mean drop of the windows that cover it;
    `details.grid` is the drop at each position.
    """

    window: Annotated[int, Field(ge=1, le=512, description="Side of the square, input pixels.")] = 32
    stride: Annotated[
        int, Field(ge=1, le=512, description="Step between squares, input pixels; at most the window.")
    ] = 16
    fill: Annotated[
        str,
        Field(
            pattern=r"^(mean|black|white|grey|blur|#[0-9a-fA-F]{6})$",
            description="What the square shows: the model's mean colour, `black`, `white`, `grey`, a blurred copy of "
            "the picture (`blur`), or a colour `#rrggbb`.",
            examples=["mean", "#808080"],
        ),
    ] = "mean"
    score: ScoreOf = "probability"

    @model_validator(mode="after")
    def _covers(self) -> "Occlusion":
        if self.stride > self.window:
            raise ValueError(
                f"stride {self.stride} is larger than window {self.window}, so that some pixels would never be "
                "hidden; choose a stride of at most the window"
            )
        return self

    def passes(self, facts: Facts, targets: int) -> int:
        """Return the number of window positions and the clean picture."""
        h, w = facts.input_size
        return len(starts(h, self.window, self.stride)) * len(starts(w, self.window, self.stride)) + 1

    def _filling(self, facts: Facts, image: Tensor) -> Tensor:
        """Return what a window shows, (3, H, W)."""
        blurred = self.fill == "blur"  # less than a picture that stands for none
        return (gaussian_blur(image, 31, 10.0) if blurred else baseline(facts, image, self.fill))[0]

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed (H, W) map a target, in units of the score."""
        height, width = image.shape[2], image.shape[3]
        filling = self._filling(probe.facts, image)
        ys, xs = starts(height, self.window, self.stride), starts(width, self.window, self.stride)
        boxes = [(x, y, min(x + self.window, width), min(y + self.window, height)) for y in ys for x in xs]
        cells = coarse_to_fine(len(ys), len(xs))
        # A window that already looks like the filling changes nothing: its drop is 0 without a forward. An accelerator
        # is asked once which pixels differ, and not a window at a time.
        differs = (image[0] != filling).any(0).cpu()  # (H, W)
        changed = [i for i in cells if bool(_cut(differs[None], boxes[i]).any())]
        unchanged = torch.ones(len(boxes), dtype=torch.bool)
        unchanged[changed] = False

        def combine(outputs: Tensor) -> Explanation:
            f = steady(targets.scores(outputs, self.score)).T  # (T, rows), the clean picture's first
            known, drops = unchanged.clone(), f.new_zeros(len(f), len(boxes))
            known[changed[: len(outputs) - 1]] = True
            drops[:, changed[: len(outputs) - 1]] = f[:, :1] - f[:, 1:]
            return self._explanation(drops, known, (ys, xs), (height, width), outputs[0], targets)

        key = ("occlusion", fingerprint(image), self.window, self.stride, self.fill)
        rows = Boxes.on(image, filling, [boxes[i] for i in changed], key)
        found = combine(probe.scores(rows, sketch=combine))
        return replace(found, avoided=len(boxes) - len(changed))

    def _explanation(
        self,
        drops: Tensor,
        known: Tensor,
        grid: tuple[list[int], list[int]],
        size: tuple[int, int],
        outputs: Tensor,
        targets: Targets,
    ) -> Explanation:
        """Lay each window's drop over its pixels; a pixel gets the mean of the known windows that cover it."""
        chosen = targets.chosen(outputs)
        grids = torch.cat([drops * known.to(drops), known[None].to(drops)]).view(-1, 1, *map(len, grid))
        square = torch.ones(1, 1, self.window, self.window, device=drops.device)
        spread = F.conv_transpose2d(grids, square, stride=self.stride)[:, 0, : size[0], : size[1]]
        maps = spread[:-1] / spread[-1].clamp(min=1)
        return Explanation(
            maps=[Map("occlusion", maps[i], "signed", target=t) for i, t in enumerate(chosen)],
            details={
                "score": self.score,
                "grid": grids[:-1, 0].tolist(),
                "grid_y": grid[0],
                "grid_x": grid[1],
                "positions": len(known),
            },
            outputs=outputs,
        )


def _cut(picture: Tensor, box: Box) -> Tensor:
    x0, y0, x1, y1 = box
    return picture[:, y0:y1, x0:x1]

"""Methods that dim the cells of a grid at random and ask how the score follows: what Sobol' and HSIC share."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from service.contract import Facts
from service.errors import InvalidParameter
from service.explainers.base import Explainer
from service.explainers.fields import MaskSpace, ScoreOf, Seed
from service.explainers.perturbation.changing import dark


class CellMethod(Explainer):
    """A method that multiplies each cell of a grid over the picture by a number in 0..1."""

    score: ScoreOf = "probability"
    cells: Annotated[int, Field(ge=2, le=16, description="Cells of the grid, a side.")] = 8
    space: MaskSpace = "pixels"
    seed: Seed = 0

    def dimmed(self, facts: Facts, image: Tensor, dims: Tensor) -> Tensor:
        """Return pictures (n, C, H, W) whose cells, row by row, are multiplied by dims (n, cells * cells).

        Raises:
            InvalidParameter: the picture has fewer pixels a side than there are cells.
        """
        height, width = image.shape[2:]
        if self.cells > min(height, width):
            raise InvalidParameter.at(
                "/params/cells",
                f"{self.cells} cells a side are more than the pixels of the model's input ({height} x {width}); "
                f"choose at most {min(height, width)}",
            )
        # A pixel is of the cell that its middle lies in, as where maps are enlarged.
        y, x = ((2 * torch.arange(n, device=image.device) + 1) * self.cells // (2 * n) for n in (height, width))
        masks = dims[:, y[:, None] * self.cells + x].to(image)  # (n, H, W)
        nothing = dark(facts, image, self.space)
        # Where nothing is dimmed the picture stays as it is, to the last digit.
        return torch.where(masks[:, None] == 1, image, nothing + (image - nothing) * masks[:, None])

    def grids(self, values: Tensor) -> Tensor:
        """Return values (T, cells * cells) as maps (T, cells, cells) of float32."""
        return values.view(-1, self.cells, self.cells).float()

"""RISE: Petsiuk, Das & Saenko 2018, "RISE: Randomized Input Sampling for Explanation of Black-box Models"."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from service.contract import Explanation, Facts, Map, Probe, Rows, Targets, fingerprint
from service.explainers.base import Explainer, explainer
from service.explainers.fields import MaskSpace, ScoreOf, Seed
from service.explainers.perturbation.changing import dark, heat_kind
from service.explainers.rounding import varies


@dataclass(frozen=True)
class Masks:
    """Random masks as what they are made of: no mask is kept."""

    grids: Tensor  # (N, s, s), 0 or 1
    shifts: Tensor  # (N, 2), whole pixels: how far down and right an enlarged grid is cut
    rows: Tensor  # (shifts, H, s): what each cell gives each row of a mask, for each shift down
    columns: Tensor  # (shifts, W, s)

    @staticmethod
    def drawn(count: int, cells: int, share: float, seed: int, size: tuple[int, int]) -> "Masks":
        """Draw masks of pictures (H, W); the first ones of many are those of few.

        A grid is enlarged bilinearly to s + 1 cells a side, edges continued, and cut at random within the first cell.
        """
        drawn = torch.from_numpy(np.random.default_rng(seed).random((count, cells * cells + 2)))
        sides = [-(-n // cells) for n in size]
        enlarging = [
            F.interpolate(torch.eye(cells)[None], (cells + 1) * side, mode="linear")[0].T.unfold(0, n, 1)[:side]
            for n, side in zip(size, sides, strict=True)
        ]  # (shifts, s, n) each: with the identity, enlarging is a matrix
        rows, columns = (matrix.transpose(1, 2).contiguous() for matrix in enlarging)
        shifts = (drawn[:, :2] * torch.tensor(sides)).long()
        return Masks((drawn[:, 2:] < share).float().view(count, cells, cells), shifts, rows, columns)

    def build(self, i: int, j: int) -> Tensor:
        """Return masks i to j, (j - i, H, W) in 0..1."""
        down, right = self.shifts[i:j].T
        return self.rows[down] @ self.grids[i:j] @ self.columns[right].mT

    def sums(self, weights: Tensor) -> Tensor:
        """Return sum_n w_n M_n, (T, H, W) in double, of the first masks, given their weights (n, T).

        Enlarging is linear and the same for all masks of one shift: grids are added up before it, so that it costs as
        much as that of a few masks.
        """
        n, cells = len(weights), self.grids.shape[1]
        place = self.shifts[:n, 0] * len(self.columns) + self.shifts[:n, 1]
        grids = self.grids[:n].double()
        summed = []
        for w in weights.double().T:
            z = torch.zeros(len(self.rows) * len(self.columns), cells, cells, dtype=torch.float64)
            z.index_add_(0, place, w[:, None, None] * grids)
            across = torch.einsum("yxab,xwb->yaw", z.view(len(self.rows), -1, cells, cells), self.columns.double())
            summed.append(torch.einsum("yaw,yha->hw", across, self.rows.double()))
        return torch.stack(summed)


@explainer(
    "rise",
    reference="Petsiuk et al. 2018, equations 5 and 6, section 3.2",
    requirement="Any model; only its outputs are used.",
    cost="1 forward per mask",
)
class RISE(Explainer):
    """The mean score of the pictures in which a pixel is shown, over random masks of coarse, soft cells.

    A mask M_n is a grid of cells that show with probability p, enlarged bilinearly and shifted at random by less than a
    cell. map = sum_n f(X * M_n) M_n / sum_n M_n, the weighted mean of the score over what was shown of each pixel. The
    paper divides by N p instead (`expectation`), which keeps the noise of how often a pixel happened to be shown: with
    hundreds of masks that noise is most of the map. `details.halves_agree` is the correlation of the maps of every
    second mask and of the others: near 0, there are too few of them.
    """

    score: ScoreOf = "probability"
    masks: Annotated[int, Field(ge=16, le=16384, description="N: how many masks.")] = 2000
    cells: Annotated[int, Field(ge=2, le=32, description="Cells of a mask's grid, a side.")] = 7
    open: Annotated[float, Field(gt=0, lt=1, description="p: the probability that a cell shows the picture.")] = 0.5
    space: MaskSpace = "pixels"
    normalise: Annotated[
        Literal["coverage", "expectation"],
        Field(description="Divide by what the masks showed of each pixel, or by N p as the paper does."),
    ] = "coverage"
    seed: Seed = 0

    def tolerates_reduced_precision(self) -> bool:
        """Allow it for probabilities: what rounding does to one mask's score averages out over all of them.

        In bfloat16 the map's rank correlation with that of float32 was 0.98, where another seed's was 0.61.
        """
        return self.score == "probability"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return the masks and the clean picture."""
        return self.masks + 1

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (H, W) map a target, in units of the score."""
        size = image.shape[2], image.shape[3]
        masks = Masks.drawn(self.masks, self.cells, self.open, self.seed, size)
        nothing = dark(probe.facts, image, self.space)
        there = Masks(*(getattr(masks, name).to(image.device) for name in ("grids", "shifts", "rows", "columns")))

        def build(i: int, j: int) -> Tensor:
            m = there.build(max(i, 1) - 1, j - 1)[:, None]
            masked = nothing + (image - nothing) * m
            return torch.cat([image, masked]) if i == 0 else masked

        def combine(outputs: Tensor) -> Explanation:
            return self._explanation(masks, outputs, targets.fixed(outputs), probe.facts)

        shown = (fingerprint(image), self.space)
        key = ("rise", *shown, self.masks, self.cells, self.open, self.seed)
        return combine(probe.scores(Rows(self.masks + 1, build, key), sketch=combine))

    def _explanation(self, masks: Masks, outputs: Tensor, targets: Targets, facts: Facts) -> Explanation:
        """Return the maps, given the outputs of the clean picture and of the first masks."""
        clean, *_ = scores = targets.scores(outputs, self.score).double().cpu()
        f = scores[1:]  # (n, T)
        told = varies(f) if len(f) else torch.zeros_like(clean, dtype=torch.bool)
        weights = torch.cat([f, torch.ones_like(f[:, :1])], 1)
        even = (torch.arange(len(f)) % 2 == 0)[:, None]
        # Of a pixel that no mask has shown nothing is known but what is known of all.
        unknown = f.mean(0) if len(f) else clean
        halves = [masks.sums(weights * even), masks.sums(weights * ~even)]
        maps = self._maps(halves[0] + halves[1], len(f), unknown)
        if self.normalise == "coverage":
            maps = torch.where(told[:, None, None], maps, unknown[:, None, None])
        other = [self._maps(half, len(f) / 2, unknown) for half in halves]
        coverage = halves[0][-1] + halves[1][-1]
        return Explanation(
            maps=[
                Map("rise", maps[i].float().to(outputs.device), heat_kind(facts, self.score, t), target=t)
                for i, t in enumerate(targets.chosen(outputs))
            ],
            details={
                "score": self.score,
                "masks": len(f),
                "coverage": [float(coverage.min()), float(coverage.max())],
                "halves_agree": [_correlation(a, b) for a, b in zip(*other, strict=True)],
            },
            outputs=outputs[0],
        )

    def _maps(self, sums: Tensor, count: float, unknown: Tensor) -> Tensor:
        """Return maps (T, H, W), given sum f M (T, H, W) and, last, sum M of so many masks."""
        total, coverage = sums[:-1], sums[-1]
        if self.normalise == "expectation":
            return total / (max(count, 1) * self.open)
        known = coverage > 0
        return torch.where(known, total / torch.where(known, coverage, 1), unknown[:, None, None])


def _correlation(a: Tensor, b: Tensor) -> float | None:
    """Return Pearson's correlation of two maps; None where one is constant."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(a.norm() * b.norm())
    return float((a * b).sum()) / norm if norm > 0 else None

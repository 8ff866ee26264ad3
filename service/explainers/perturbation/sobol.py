"""Sobol' attribution: Fel et al. 2021, "Look at the Variance!", section 3."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Map, Probe, Rows, Targets, fingerprint
from service.explainers.base import explainer
from service.explainers.perturbation.cells import CellMethod
from service.explainers.rounding import varies


def latin_hypercube(points: int, dimensions: int, seed: int) -> Tensor:
    """Return points (n, d) in 0..1 of which each n-th part of each axis holds exactly one (McKay et al. 1979)."""
    random = np.random.default_rng(seed)
    strata = random.permuted(np.tile(np.arange(points), (dimensions, 1)), axis=1).T
    return torch.from_numpy((strata + random.random((points, dimensions))) / points).float()


@explainer(
    "sobol",
    reference="Fel et al. 2021, section 3; estimator: Jansen 1999",
    requirement="Any model; only its outputs are used.",
    cost="designs times (cells squared + 1) forwards",
    kind="regions",
)
class Sobol(CellMethod):
    """The share of the score's variance that a cell has a part in, alone or with others, when all are dimmed at random.

    The total Sobol' index, by Jansen's estimator: S_i = mean_n (f(A_n) - f(C_in))^2 / (2 var f), where a row A_n dims
    every cell by a number in 0..1 and C_in is A_n with cell i dimmed as B_n says. A and B are halves of one Latin
    hypercube, which beats a Sobol' sequence where there are fewer points than dimensions; the outputs of B itself enter
    nowhere. var f is that of all rows, as all have one distribution. `details.variance` is the score's variance; where
    it is no more than rounding, nothing depends on any cell, and the map is 0.
    """

    designs: Annotated[int, Field(ge=4, le=128, description="N: random rows A, and B.")] = 32

    def passes(self, facts: Facts, targets: int) -> int:
        """Return the rows and the clean picture."""
        return self.designs * (self.cells**2 + 1) + 1

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (cells, cells) map >= 0 a target, without unit."""
        d = self.cells**2
        a, b = latin_hypercube(self.designs, 2 * d, self.seed).chunk(2, 1)

        def dims(i: int, j: int) -> Tensor:
            """Return rows i to j: the clean picture's, and then each A_n with its C_1n to C_dn behind it."""
            row = torch.arange(i, j) - 1
            n, cell = (row // (d + 1)).clamp(min=0), row % (d + 1) - 1
            m = torch.where(torch.arange(d) == cell[:, None], b[n], a[n])
            return torch.where(row[:, None] < 0, 1, m)

        def build(i: int, j: int) -> Tensor:
            return self.dimmed(probe.facts, image, dims(i, j).to(image.device))

        def combine(outputs: Tensor) -> Explanation:
            return self._explanation(outputs, targets.fixed(outputs))

        key = ("sobol", fingerprint(image), self.cells, self.space, self.seed, self.designs)
        return combine(probe.scores(Rows(self.passes(probe.facts, 1), build, key), sketch=combine))

    def _explanation(self, outputs: Tensor, targets: Targets) -> Explanation:
        """Return the maps, given the outputs of the clean picture and of the first rows."""
        d = self.cells**2
        f = targets.scores(outputs, self.score).double().cpu()[1:]
        whole = f[: len(f) // (d + 1) * (d + 1)]
        a_and_c = whole.view(-1, d + 1, whole.shape[1])  # (N, 1 + d, T), whole designs
        variance, index = whole.new_zeros(2, whole.shape[1]), whole.new_zeros(whole.shape[1], d)
        if len(whole):
            variance = whole.var(0) * varies(whole)
            change = (a_and_c[:, :1] - a_and_c[:, 1:]).square().mean(0).T  # (T, d)
            index = torch.where(variance[:, None] > 0, change / (2 * variance[:, None]), 0)
        maps = self.grids(index).to(outputs.device)
        return Explanation(
            maps=[
                Map("sobol", maps[i], "regions", target=t, interpolation="nearest")
                for i, t in enumerate(targets.chosen(outputs))
            ],
            details={"score": self.score, "designs": len(a_and_c), "variance": variance.tolist()},
            outputs=outputs[0],
        )

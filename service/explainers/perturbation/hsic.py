"""HSIC attribution: Novello, Fel & Vigouroux 2022, "Making Sense of Dependence", section 3."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Map, Probe, Rows, Targets, fingerprint, still_wanted
from service.explainers.base import explainer
from service.explainers.perturbation.cells import CellMethod
from service.explainers.rounding import varies

SLICE = 512  # rows of the kernel matrix that exist at a time


def switches(samples: int, cells: int, seed: int) -> Tensor:
    """Return which cells show in each sample, (n, d) of 0 and 1: each of them in every second one, in random order."""
    halves = np.tile(np.arange(samples) % 2, (cells, 1))
    return torch.from_numpy(np.random.default_rng(seed).permuted(halves, axis=1).T.copy()).float()


def median_gap(y: Tensor) -> float:
    """Return the (lower) median of the distances |y_i - y_j| > 0 of all pairs of values (n,), in double.

    Found by bisection over sorted values: no matrix of all pairs is made.
    """
    y = y.double().sort().values
    n = len(y)

    def within(gap: float) -> int:
        """Return how many pairs are at most so far apart."""
        return int((torch.searchsorted(y, y + gap, right=True) - torch.arange(1, n + 1)).sum())

    equal = within(0.0)
    wanted = equal + (n * (n - 1) // 2 - equal + 1) // 2
    low, high = 0.0, float(y[-1] - y[0])
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if within(middle) >= wanted else (middle, high)
    return high


def dependence(x: Tensor, y: Tensor) -> Tensor:
    """Return the HSIC of each of many switches (n, d) with values (n,): (d,), in double.

    tr(K H L H) / n^2 with K = 1/2 - (x - x')^2, L = exp(-(y - y')^2 / (2 g^2)), g the median gap, and H the centring.
    Of K only 2 x x' survives centring, so that the trace is a quadratic form: 2 (Hx)^T L (Hx).
    """
    y, n = y.double(), len(y)
    gap = median_gap(y)
    centred = x.double() - x.double().mean(0)
    found = torch.zeros(x.shape[1], dtype=torch.float64)
    for i in range(0, n, SLICE):
        still_wanted()
        kernel = torch.exp(-((y[i : i + SLICE, None] - y) ** 2) / (2 * gap**2))
        found += (centred[i : i + SLICE] * (kernel @ centred)).sum(0)
    return (2 * found / n**2).clamp(min=0)


@explainer(
    "hsic",
    reference="Novello et al. 2022, section 3",
    requirement="Any model; only its outputs are used.",
    cost="1 forward per sample",
    kind="regions",
)
class HSIC(CellMethod):
    """How strongly the score depends on whether a cell shows: the Hilbert-Schmidt independence criterion.

    Each sample shows a random half of the cells. HSIC_i = tr(K_i H L H) / n^2 with a kernel K_i of whether cell i
    shows, and a Gaussian one L of the score, as wide as the median gap between two scores (`details.width`). It sees
    any dependence, not only a shift of the mean. Where the scores differ by no more than rounding, nothing depends on
    any cell, and the map is 0.
    """

    samples: Annotated[int, Field(ge=32, le=4096, description="n: pictures with random cells hidden.")] = 512

    def passes(self, facts: Facts, targets: int) -> int:
        """Return the samples and the clean picture."""
        return self.samples + 1

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (cells, cells) map >= 0 a target, without unit."""
        shown = switches(self.samples, self.cells**2, self.seed)
        rows = torch.cat([torch.ones_like(shown[:1]), shown]).to(image.device)

        def build(i: int, j: int) -> Tensor:
            return self.dimmed(probe.facts, image, rows[i:j])

        def combine(outputs: Tensor) -> Explanation:
            return self._explanation(shown, outputs, targets.fixed(outputs))

        key = ("hsic", fingerprint(image), self.cells, self.space, self.seed, self.samples)
        return combine(probe.scores(Rows(len(rows), build, key), sketch=combine))

    def _explanation(self, shown: Tensor, outputs: Tensor, targets: Targets) -> Explanation:
        """Return the maps, given the outputs of the clean picture and of the first samples."""
        f = targets.scores(outputs, self.score).double().cpu()[1:]
        told = varies(f) if len(f) > 1 else torch.zeros(f.shape[1], dtype=torch.bool)
        nothing = torch.zeros(self.cells**2, dtype=torch.float64)
        found = [dependence(shown[: len(f)], y) if seen else nothing for y, seen in zip(f.T, told, strict=True)]
        maps = self.grids(torch.stack(found)).to(outputs.device)
        return Explanation(
            maps=[
                Map("hsic", maps[i], "regions", target=t, interpolation="nearest")
                for i, t in enumerate(targets.chosen(outputs))
            ],
            details={
                "score": self.score,
                "samples": len(f),
                "width": [median_gap(y) if seen else None for y, seen in zip(f.T, told, strict=True)],
            },
            outputs=outputs[0],
        )

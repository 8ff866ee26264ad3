"""Kernel SHAP: Lundberg & Lee 2017, "A Unified Approach to Interpreting Model Predictions", section 4.1.

Sampling in pairs of complements: Covert & Lee 2021, "Improving KernelSHAP", section 4.
"""

import itertools
import math
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from service.contract import Explanation, Facts, Probe, Targets
from service.explainers.base import explainer
from service.explainers.fields import Seed
from service.explainers.perturbation.switching import SegmentMethod, explained

MOST = 0.75  # of a size's coalitions that have to be due to it for it to be taken whole


def coalitions(segments: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return coalitions (n, M) other than the empty and the whole one, and their weights (n,) in double.

    All coalitions of one size weigh (M - 1) / (k (M - k)) under the Shapley kernel. Sizes k and M - k are taken whole,
    from both ends inwards, as long as they fit into `samples`: the first ones in any case, further ones where they get
    most of what the kernel would have given them of what is left, or else few rows would stand for all others. What is
    left is drawn, no coalition twice, in pairs of complements whose sizes are spread evenly over the kernel; these
    share the weight of the sizes that are left.
    """
    m = segments
    kernel = {k: (m - 1) / (k * (m - k)) for k in range(1, m)}
    rows: list[tuple[int, ...]] = []
    weights: list[float] = []
    for k in range(1, m // 2 + 1):
        alike = 1 if 2 * k == m else 2
        number, left = math.comb(m, k) * alike, samples - len(rows)
        share = alike * kernel[k] / sum(kernel[size] for size in range(k, m - k + 1))
        if number > left or (k > 1 and share * left < MOST * number):
            break
        for chosen in itertools.combinations(range(m), k):
            pair = [chosen] if 2 * k == m else [chosen, _complement(chosen, m)]
            rows += pair
            weights += [kernel[k] / math.comb(m, k)] * len(pair)
    else:
        return _switches(rows, m), torch.tensor(weights, dtype=torch.float64)
    sizes = list(range(k, m - k + 1))
    shares = np.cumsum([kernel[size] for size in sizes])
    random, pairs = np.random.default_rng(seed), (samples - len(rows)) // 2
    places = (np.arange(pairs) + random.random()) / max(pairs, 1) * shares[-1]
    drawn: dict[tuple[int, ...], None] = {}
    for size in np.searchsorted(shares, places, side="right").clip(max=len(sizes) - 1):
        while True:
            chosen = tuple(sorted(random.permutation(m)[: sizes[size]].tolist()))
            if chosen not in drawn:
                break
        drawn |= {chosen: None, _complement(chosen, m): None}
    rows += drawn
    weights += [float(shares[-1]) / max(len(drawn), 1)] * len(drawn)
    return _switches(rows, m), torch.tensor(weights, dtype=torch.float64)


def _complement(chosen: tuple[int, ...], m: int) -> tuple[int, ...]:
    left = set(chosen)
    return tuple(i for i in range(m) if i not in left)


def _switches(rows: list[tuple[int, ...]], m: int) -> Tensor:
    on = torch.zeros(len(rows), m, dtype=torch.bool)
    for row, chosen in enumerate(rows):
        on[row, list(chosen)] = True
    return on


def shares(on: Tensor, f: Tensor, w: Tensor, nothing: Tensor, change: Tensor) -> Tensor:
    """Return phi (M, T) of least sum_n w_n (f_n - f_0 - sum_{i on} phi_i)^2 among those that add up to the change.

    on (n, M); scores f (n, T), f_0 (T,) with nothing on, and the change (T,), all in double. With phi = change / M + v
    the v add up to 0: they solve the same for switches less their mean, of which the shortest solution does.
    """
    m = on.shape[1]
    z = on.double()
    number = z.sum(1, keepdim=True)
    centred, y = z - number / m, f - nothing - number / m * change
    gram = centred.T @ (w[:, None] * centred)
    # One eigenvalue is 0 but for rounding, which a pseudo-inverse by the last digit would take for a number.
    v = torch.linalg.pinv(gram, rtol=1e-9, hermitian=True) @ (centred.T @ (w[:, None] * y))
    phi: Tensor = change / m + v - v.mean(0)
    return phi


@explainer(
    "kernel-shap",
    reference="Lundberg & Lee 2017, section 4.1; paired sampling: Covert & Lee 2021",
    requirement="Any model; only its outputs are used.",
    cost="1 forward per sample; fewer where all coalitions of the segments are fewer",
    kind="regions",
)
class KernelSHAP(SegmentMethod):
    """Shapley values of the picture's segments: each one's mean contribution to the score over all orders of showing.

    They are the weighted least squares fit, under the Shapley kernel, of the scores of pictures in which a coalition of
    segments shows, and add up to f(X) - f(all hidden) exactly. Coalitions are taken whole, size by size from both ends,
    while they get most of their share of `samples`; the rest is drawn in pairs of complements. Where all fit, the
    values are exact, and `usage.exact` says so. `details.r2` is the share of the (weighted) variance of the score that
    a sum over segments explains.
    """

    samples: Annotated[
        int, Field(ge=16, le=8192, description="Pictures with some segments hidden; at least twice the segments.")
    ] = 1000
    seed: Seed = 0

    @model_validator(mode="after")
    def _determined(self) -> "KernelSHAP":
        if self.samples < 2 * self.count:
            raise ValueError(
                f"samples {self.samples} are too few to tell {self.count} segments apart; choose at least "
                f"{2 * self.count}, so that each is shown alone and hidden alone, or a smaller count"
            )
        return self

    def estimates(self) -> bool:
        """Leave it to each answer, which says whether all coalitions were asked."""
        return False

    def passes(self, facts: Facts, targets: int) -> int:
        """Return the coalitions, and the two pictures with all shown and with all hidden."""
        return min(self.samples, (1 << self.most(facts)) - 2) + 2

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed (H, W) map a target, in units of the score."""
        labels = self.labels(probe.facts, image)
        m = int(labels.max()) + 1
        on, w = coalitions(m, self.samples, self.seed)
        ends = torch.tensor([True, False])[:, None].expand(2, m)

        def fit(on: Tensor, f: Tensor) -> tuple[Tensor, dict[str, Any], bool]:
            known = len(on) - 2
            if known < 0:  # the clean picture alone
                return torch.zeros(m, f.shape[1], dtype=f.dtype), {}, False
            change = f[0] - f[1]
            phi = shares(on[2:], f[2:], w[:known], f[1], change)
            fitted = f[1] + on[2:].double() @ phi
            details = {
                "change": change.tolist(),
                "residual": (change - phi.sum(0)).tolist(),
                "coalitions": known,
                "r2": explained(f[2:], fitted, w[:known]) if known else [None] * f.shape[1],
            }
            return phi, details, known == 2**m - 2

        return self.estimated(probe, image, targets, labels, torch.cat([ends, on]), fit)

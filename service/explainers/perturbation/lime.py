"""LIME: Ribeiro, Singh & Guestrin 2016, ""Why Should I Trust You?" Explaining the Predictions of Any Classifier"."""

from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Probe, Targets
from service.explainers.base import explainer
from service.explainers.fields import Seed
from service.explainers.perturbation.switching import SegmentMethod, explained


def switches(samples: int, segments: int, seed: int) -> Tensor:
    """Return which segments show in each sample, (n, M): all of them in the first one, else each by a coin's toss."""
    on = torch.from_numpy(np.random.default_rng(seed).random((samples, segments)) < 0.5)
    on[0] = True
    return on


def nearness(on: Tensor, width: float) -> Tensor:
    """Return the weight of samples (n, M): sqrt(exp(-d^2 / width^2)), d the cosine distance to all segments on."""
    d = 1 - (on.sum(1).double() / on.shape[1]).sqrt()  # of 0/1 rows; without any it is 1
    return torch.exp(-(d**2) / width**2).sqrt()


def ridge_regression(x: Tensor, y: Tensor, w: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Return the coefficients (M, T) and the intercept (T,) of least sum w (y - x b - a)^2 + penalty |b|^2.

    x (n, M), y (n, T), weights w (n,), all in double; the intercept is free.
    """
    mean = [(w[:, None] * values).sum(0) / w.sum() for values in (x, y)]
    xc, yc = x - mean[0], y - mean[1]
    gram = xc.T @ (w[:, None] * xc) + penalty * torch.eye(x.shape[1], dtype=x.dtype)
    beta = torch.cholesky_solve(xc.T @ (w[:, None] * yc), torch.linalg.cholesky(gram))
    return beta, mean[1] - mean[0] @ beta


@explainer(
    "lime",
    reference="Ribeiro et al. 2016, section 3.3, with the kernel and the regression of its authors' code for images",
    requirement="Any model; only its outputs are used.",
    cost="1 forward per sample",
    kind="regions",
)
class LIME(SegmentMethod):
    """A ridge regression of the score on which segments of the picture show, with more weight near the whole picture.

    Each sample shows a random half of the segments; its weight is sqrt(exp(-d^2 / width^2)), d being the cosine
    distance of its switches to all on. The map has each segment's coefficient. `details.r2` is the share of the
    (weighted) variance of the score that the regression explains: near 0, the coefficients mean little.
    """

    samples: Annotated[int, Field(ge=16, le=8192, description="Pictures with some segments hidden.")] = 1000
    width: Annotated[float, Field(ge=0.01, le=10, description="Width of the kernel of nearness, cosine distance.")] = (
        0.25
    )
    ridge: Annotated[float, Field(ge=1e-6, le=100, description="Penalty on the coefficients' squares.")] = 1.0
    seed: Seed = 0

    def tolerates_reduced_precision(self) -> bool:
        """Allow it for probabilities: the regression averages what rounding does to samples' scores.

        In bfloat16 it moved the map by a third or less of what another seed did.
        """
        return self.score == "probability"

    def passes(self, facts: Facts, targets: int) -> int:
        """Return the samples, of which the first one is the clean picture."""
        return self.samples

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one signed (H, W) map a target, in units of the score."""
        labels = self.labels(probe.facts, image)
        on = switches(self.samples, int(labels.max()) + 1, self.seed)

        def fit(on: Tensor, f: Tensor) -> tuple[Tensor, dict[str, Any], bool]:
            x, w = on.double(), nearness(on, self.width)
            # Less the clean picture's score, so that scores that are all equal have coefficients of exactly zero.
            beta, intercept = ridge_regression(x, f - f[:1], w, self.ridge)
            intercept = intercept + f[0]
            r2 = explained(f, x @ beta + intercept, w)
            return beta, {"intercept": intercept.tolist(), "samples": len(on), "r2": r2}, True

        return self.estimated(probe, image, targets, labels, on, fit)

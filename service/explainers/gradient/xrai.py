"""XRAI: Kapishnikov et al. 2019, "XRAI: Better Attributions Through Regions", section 3, algorithm 1."""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from service.contract import Explanation, Facts, Map, Probe, Targets, still_wanted
from service.errors import InvalidParameter
from service.explainers.base import explainer
from service.explainers.fields import Baselines, Segments
from service.explainers.gradient.inputs import InputGradient
from service.explainers.gradient.paths import integrated
from service.explainers.segments import cut

Pixels = npt.NDArray[np.int64]
"""Pixels of a picture in the order of reading, rising."""


def grown(labels: Tensor, growth: int) -> list[Pixels]:
    """Return the pixels of each segment of labels (H, W), and those up to `growth` pixels away from it."""
    height, width = labels.shape
    place = torch.arange(height * width).view(height, width)
    found = []
    order = labels.flatten().argsort(stable=True)
    for own in torch.split(order, labels.flatten().bincount().tolist()):
        still_wanted()
        y, x = own // width, own % width
        rows = slice(max(int(y.min()) - growth, 0), int(y.max()) + growth + 1)
        columns = slice(max(int(x.min()) - growth, 0), int(x.max()) + growth + 1)
        near = _dilated((labels[rows, columns] == labels[y[0], x[0]]).numpy(), growth)
        found.append(place[rows, columns].numpy()[near])
    return found


def _dilated(mask: npt.NDArray[np.bool_], radius: int) -> npt.NDArray[np.bool_]:
    """Return the pixels at most so far away from those of a mask (H, W): line by line of a disk, from sums of lines."""
    height, width = mask.shape
    sums = np.pad(np.pad(mask, radius).cumsum(1), ((0, 0), (1, 0)))
    near = np.zeros_like(mask)
    for y in range(2 * radius + 1):
        half = math.isqrt(radius**2 - (y - radius) ** 2)
        lines = sums[y : y + height]
        first, last = radius - half, radius + half + 1
        near |= lines[:, last : last + width] > lines[:, first : first + width]
    return near


def ranked(attribution: npt.NDArray[np.float64], segments: Sequence[Pixels], smallest: int) -> tuple[Tensor, int]:
    """Join segments that overlap, at each step the one whose part that is new has the highest mean attribution.

    Only what a step covers changes the others' sums, so that all steps together look at each segment's pixels once.

    Args:
        attribution: of each pixel, (H, W).
        segments: each one's pixels.
        smallest: how many pixels of a segment have to be new for it to be joined.

    Returns:
        (H, W), for each pixel the mean with which it was joined, and for what never was its own mean; and how many
        steps there were.
    """
    values, count = attribution.ravel(), len(segments)
    sizes = np.array([len(pixels) for pixels in segments])
    sums = np.array([values[pixels].sum() for pixels in segments])
    pixel, segment = np.concatenate(segments), np.arange(count).repeat(sizes)
    order = pixel.argsort(kind="stable")
    segment = segment[order]  # pixel by pixel
    first = np.searchsorted(pixel[order], np.arange(len(values) + 1))  # where a pixel's segments begin
    found, free, waiting, steps = np.zeros(len(values)), np.ones(len(values), bool), np.ones(count, bool), 0
    while (waiting := waiting & (sizes >= smallest)).any():
        still_wanted()
        density = np.where(waiting, sums / np.maximum(sizes, 1), -np.inf)
        best = int(density.argmax())
        new = segments[best][free[segments[best]]]
        found[new], free[new], waiting[best], steps = density[best], False, False, steps + 1
        holders = first[new + 1] - first[new]  # how many segments have each of them
        at = np.arange(holders.sum()) + (first[new] - holders.cumsum() + holders).repeat(holders)
        sizes = sizes - np.bincount(segment[at], minlength=count)
        sums = sums - np.bincount(segment[at], values[new].repeat(holders), count)
    if free.any():
        found[free] = values[free].mean()
    return torch.from_numpy(found.reshape(attribution.shape)).float(), steps


@explainer(
    "xrai",
    reference="Kapishnikov et al. 2019, section 3, algorithm 1",
    requirement="Any differentiable model.",
    cost="for each step and baseline 1 forward and a whole backward per target; and 1 forward per baseline and picture",
    kind="regions",
)
class XRAI(InputGradient):
    """Regions instead of pixels, ranked by how densely integrated gradients lie in them.

    The picture is cut several times, from coarse to fine, and each segment grows by some pixels, so that it holds its
    own edge. Then segments are joined, each time the one whose new part has the highest mean of the attributions (the
    largest over the colours); pixels show the mean they were joined with. The paper cuts by Felzenszwalb's graphs, this
    by SLIC: what a segment is differs, what is done with it does not. `details` has completeness of the attributions.
    """

    baseline: Baselines = "black+white"
    steps: Annotated[int, Field(ge=2, le=512, description="Points on the way from each baseline.")] = 50
    segments: Segments = "slic"
    counts: Annotated[
        tuple[Annotated[int, Field(ge=2, le=512)], ...],
        Field(min_length=1, max_length=8, description="How many segments, at most, each of the cuts has."),
    ] = (16, 32, 64, 128, 256)
    growth: Annotated[int, Field(ge=0, le=16, description="How far each segment grows, input pixels.")] = 5
    smallest: Annotated[
        int, Field(ge=1, le=4096, description="How many pixels of a segment have to be new for it to be joined.")
    ] = 50

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        baselines = 1 + self.baseline.count("+")
        return (1 + 2 * targets) * self.steps * baselines + 1 + baselines

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (H, W) map a target, in units of the score a pixel.

        Raises:
            InvalidParameter: no segment has as many pixels as one has to have to be joined.
        """
        picture = probe.facts.shown(image)[0].cpu()
        segments = [part for count in self.counts for part in grown(cut(picture, self.segments, count), self.growth)]
        if (most := max(map(len, segments))) < self.smallest:
            raise InvalidParameter.at(
                "/params/smallest",
                f"no segment of this picture has {self.smallest} pixels, so that none is joined; choose at most {most}",
            )
        found = integrated(probe, image, targets, self.score, self.baseline, "gauss-legendre", self.steps)
        largest = probe.facts.coloured(found.values).amax(1).cpu().numpy()  # (T, H, W); opacity is no colour
        joined = [ranked(one, segments, self.smallest) for one in largest]
        return Explanation(
            maps=[
                Map(self.name, array.to(image), "regions", target=target, interpolation="nearest")
                for (array, _), target in zip(joined, found.targets.chosen(found.outputs), strict=True)
            ],
            details={
                "score": self.score,
                "segments": len(segments),
                "joined": [steps for _, steps in joined],
                **found.completeness(),
            },
            outputs=found.outputs,
        )

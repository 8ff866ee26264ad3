"""Extremal perturbations: Fong, Patrick & Vedaldi 2019, sections 3.1 to 3.3."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from service.contract import INPUT, Explanation, Facts, Map, Probe, Rows, Targets, Trace, Tracing, still_wanted
from service.errors import InvalidParameter
from service.explainers.base import Explainer, explainer
from service.explainers.baselines import baseline
from service.explainers.fields import Hidden, ScoreOf

RATE, MOMENTUM = 0.01, 0.9
WEIGHT, GROWTH = 300.0, 1.0035**800  # of the penalty on the area: at first, and how much it grows over all steps
TIED = 1e-5  # pixels that are as near to each other as rounding may be are equal
WIDEST = 6  # cells that a kernel is wide, at most: 225 cells make a pixel then
SHARPNESS = 20.0  # of the smooth maximum: the larger, the nearer it is to the maximum


@dataclass(frozen=True)
class Smooth:
    """A smooth mask, and what its gradient takes: both by a pixel's place in its cell, and by its cell."""

    mask: Tensor  # (H', W') in 0..1: with what lies beyond the picture
    parts: Tensor  # (grain, grain, h', w'): the mask
    total: Tensor  # (grain, grain, h', w'): the sum of the smooth maximum's weights


class Spread:
    """Masks that are the smooth maximum of kernels around the cells of a coarse grid: equations 6 to 8.

    A pixel at a distance d of a cell's centre gets s = exp(-2 max(0, d / sigma - 1/2)^2) of its value, from cells at
    most `reach` rows and columns from its own. Of these it takes M = sum_i s_i exp(20 s_i) / sum_i exp(20 s_i).

    Masks go on beyond the picture, to where no cell of it reaches: their area is that of all of a spot, also where the
    border cuts it. Were it only what is seen of it, spots at the border would be cheaper than others, and those in the
    corners the cheapest.

    The derivative is written out, dM / ds_i = exp(20 s_i) (1 + 20 (s_i - M)) / sum_j exp(20 s_j): a row of cells at a
    time, it takes a few pictures' memory, and a quarter of the time that recording all of it would.
    """

    def __init__(self, size: tuple[int, int], grain: int, sigma: float, device: torch.device) -> None:
        self.size, self.grain = size, grain
        self.grid = -(-size[0] // grain), -(-size[1] // grain)
        self.reach = 1 + math.ceil(sigma / grain)
        self.margin = self.reach * grain  # pixels at each side of the picture
        near = torch.arange(-self.reach, self.reach + 1, device=device)
        # From each of a cell's pixels (axis 1) to the centres of the cells around (axis 0).
        away = (near[:, None] + 0.5) * grain - torch.arange(grain, device=device)
        distance = (away[:, None, :, None] ** 2 + away[None, :, None, :] ** 2).sqrt()
        self.kernel = torch.exp(-2 * (distance / sigma - 0.5).clamp(min=0) ** 2)[..., None, None]

    def __call__(self, p: Tensor) -> Smooth:
        """Return the mask of a grid (h, w) in 0..1."""
        h, w = self._cells
        total = p.new_zeros(self.grain, self.grain, h, w)
        weighted = torch.zeros_like(total)
        for s, _ in self._around(p):
            e = (SHARPNESS * s).exp_()
            total += e.sum(0)
            weighted += e.mul_(s).sum(0)
        parts = weighted / total
        return Smooth(parts.permute(2, 0, 3, 1).reshape(h * self.grain, w * self.grain), parts, total)

    def seen(self, masks: Tensor) -> Tensor:
        """Return what of masks (..., H', W') lies on the picture, (..., H, W)."""
        (height, width), m = self.size, self.margin
        return masks[..., m : m + height, m : m + width]

    def widened(self, seen: Tensor) -> Tensor:
        """Return values at pixels of the picture (..., H, W) as ones at masks (..., H', W'): zero around it."""
        beyond = [n * self.grain - self.margin - side for n, side in zip(self._cells, self.size, strict=True)]
        return F.pad(seen, (self.margin, beyond[1], self.margin, beyond[0]))

    def gradient(self, p: Tensor, smooth: Smooth, at_mask: Tensor) -> Tensor:
        """Return the gradient at the grid (h, w), given that at its mask (H', W')."""
        h, w = self._cells
        g = at_mask.view(h, self.grain, w, self.grain).permute(1, 3, 0, 2) / smooth.total
        slope = SHARPNESS * g
        level = g - slope * smooth.parts
        found = p.new_zeros(h + 2 * self.reach, w + 2 * self.reach)
        for y, (s, kernel) in enumerate(self._around(p)):
            e = (SHARPNESS * s).exp_().mul_(kernel)
            pulled = e.mul_(s.mul_(slope).add_(level)).sum((1, 2))  # (2 reach + 1, h', w')
            for x, one in enumerate(pulled):
                found[y : y + h, x : x + w] += one
        inside = slice(2 * self.reach, 2 * self.reach + self.grid[0])
        return found[inside, 2 * self.reach : 2 * self.reach + self.grid[1]]

    @property
    def _cells(self) -> tuple[int, int]:
        """How many cells masks have."""
        return self.grid[0] + 2 * self.reach, self.grid[1] + 2 * self.reach

    def _around(self, p: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Give, for each row of cells around a pixel's own, what their kernels make of them, and the kernels.

        Shapes: (2 reach + 1, grain, grain, h', w') and (2 reach + 1, grain, grain, 1, 1). Around the grid lie zeros.
        """
        h, w = self._cells
        bordered = F.pad(p, (2 * self.reach,) * 4)
        for y, kernel in enumerate(self.kernel):
            still_wanted()
            cells = bordered[y : y + h].unfold(1, w, 1).transpose(0, 1)  # (2 reach + 1, h', w')
            yield cells[:, None, None] * kernel, kernel


@explainer(
    "extremal-perturbation",
    reference="Fong et al. 2019, equations 4 to 8",
    requirement="Any differentiable model.",
    cost="steps forwards and backwards for each area and target",
)
class ExtremalPerturbation(Explainer):
    """The smooth mask of a given area that keeps the score highest when all else is hidden.

    Gradient ascent on f(hidden + (X - hidden) M) - weight |sort(M) - r_a|^2, with r_a the sorted values of a mask that
    is 1 on the wanted area and 0 elsewhere; the weight grows, so that the mask ends up with that area and hardly any
    grey. What of a spot lies beyond the border counts, too, so that none is cheaper there. The map is the mean of the
    masks over the areas; `details` has for each the area found on the picture and the score that it keeps, beside that
    of the clean and of the hidden picture. It is a search, and not sure to find the best mask.
    """

    score: ScoreOf = "logit"
    areas: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...],
        Field(
            min_length=1,
            max_length=8,
            description="Shares of the picture that masks show, a search for each.",
            examples=[[0.05, 0.1, 0.2]],
        ),
    ] = (0.1,)
    steps: Annotated[int, Field(ge=10, le=2000, description="Steps of gradient ascent.")] = 300
    grain: Annotated[int, Field(ge=2, le=64, description="Side of a cell of the mask's grid, input pixels.")] = 7
    smoothness: Annotated[float, Field(ge=1, le=100, description="Width of a cell's kernel, input pixels.")] = 21.0
    mirror: Annotated[
        bool,
        Field(description="Mirror the masked picture at every second step, against masks that fit one view alone."),
    ] = True
    hidden: Hidden = "blur"

    @model_validator(mode="after")
    def _affordable(self) -> "ExtremalPerturbation":
        if self.smoothness > WIDEST * self.grain:
            raise ValueError(
                f"smoothness {self.smoothness:g} is more than {WIDEST} times grain {self.grain}: each pixel would be "
                "made of hundreds of cells; choose a larger grain, or a smaller smoothness"
            )
        return self

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a gradient at the input."""
        facts.require_gradient(cls.name)

    def estimates(self) -> bool:
        """Always: a search may end beside the best mask."""
        return True

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two: the steps, the mask's score, and the two pictures."""
        return (3 * self.steps + 1) * len(self.areas) * targets + 2

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (H, W) map in 0..1 a target.

        Raises:
            InvalidParameter: the picture has fewer pixels a side than one cell, or than the width that is asked for.
        """
        side = min(image.shape[2:])
        if self.grain > side:
            raise InvalidParameter.at(
                "/params/grain",
                f"a cell of {self.grain} pixels is larger than the model's input, which has {side} a side; choose at "
                f"most {side}",
            )
        if self.smoothness > side and "smoothness" in self.model_fields_set:
            raise InvalidParameter.at(
                "/params/smoothness",
                f"a mask whose cells are {self.smoothness:g} pixels wide has no area that lies in the model's input, "
                f"which has {side} a side; choose at most {side}, and a tenth of it for details",
            )
        hidden = baseline(probe.facts, image, self.hidden)
        ends = probe.scores(Rows.of(torch.cat([image, hidden])))
        targets = targets.fixed(ends)
        chosen = targets.chosen(ends)
        wanted = [(t, area) for t in range(len(chosen)) for area in self.areas]  # a row of each trace
        masks, kept = self._search(probe, image, hidden, targets, wanted)
        clean, nothing = targets.scores(ends, self.score).tolist()
        of = [[i for i, (t, _) in enumerate(wanted) if t == target] for target in range(len(chosen))]
        return Explanation(
            maps=[Map(self.name, masks[of[t]].mean(0), target=target) for t, target in enumerate(chosen)],
            details={
                "score": self.score,
                "areas": [masks[i].mean((1, 2)).tolist() for i in of],
                "kept": [kept[i].tolist() for i in of],
                "clean": clean,
                "hidden": nothing,
            },
            outputs=ends[0],
        )

    def _search(
        self, probe: Probe, image: Tensor, hidden: Tensor, targets: Targets, wanted: Sequence[tuple[int, float]]
    ) -> tuple[Tensor, Tensor]:
        """Return a mask (n, H, W) for each target and area, and the scores (n,) that they keep."""
        size, n = (image.shape[2], image.shape[3]), len(wanted)
        spread = Spread(size, self.grain, self.smoothness, image.device)
        target = torch.tensor([t for t, _ in wanted], device=image.device)
        p = torch.ones(n, *spread.grid, device=image.device)
        # Sorted values of masks of the wanted areas; half a pixel of grey where the area is no whole number of pixels.
        pixels = torch.arange(spread(p[0]).mask.numel(), 0, -1, device=image.device)
        sorted_to = torch.stack([(area * size[0] * size[1] - pixels + 1).clamp(0, 1) for _, area in wanted])

        def shown(masks: Tensor) -> Tensor:
            return hidden + (image - hidden) * spread.seen(masks)[:, None]

        def objective(seen: Trace) -> Tensor:
            own = target[seen.first : seen.first + len(seen.outputs)]
            return targets.scores(seen.outputs, self.score).gather(1, own[:, None])

        velocity, weight = torch.zeros_like(p), WEIGHT
        for step in range(self.steps):
            mirrored = self.mirror and step % 2 == 0
            smooth = [spread(one) for one in p]
            masks = torch.stack([one.mask for one in smooth])
            x = shown(masks).flip(3) if mirrored else shown(masks)
            g = probe.trace(Rows.of(x), Tracing(wrt=(INPUT,)), objective).gradients[INPUT][0]  # (n, C, H, W)
            up = spread.widened(((g.flip(3) if mirrored else g) * (image - hidden)).sum(1))
            up = up - weight * _excess(masks, sorted_to)
            at_grid = torch.stack([spread.gradient(*each) for each in zip(p, smooth, up, strict=True)])
            velocity = MOMENTUM * velocity + (1 - MOMENTUM) * at_grid
            p = (p + RATE * velocity).clamp(0, 1)
            weight *= GROWTH ** (1 / self.steps)
        masks = torch.stack([spread(one).mask for one in p])
        kept = probe.trace(Rows.of(shown(masks)), Tracing(), objective).objective
        return spread.seen(masks), kept[:, 0]


def _excess(masks: Tensor, sorted_to: Tensor) -> Tensor:
    """Return the gradient (n, H', W') of the mean of (sort(M) - r)^2 at masks (n, H', W'), r (n, H' * W') sorted.

    Pixels that are equal are drawn alike, to the mean of what r has for them: there are hundreds at first, one in each
    cell, among which their order in memory would choose.
    """
    values, order = masks.flatten(1).sort(1)
    first = (sorted_to > 0).int().argmax(1, keepdim=True)  # where r rises
    tied = (values - values.gather(1, first)).abs() < TIED
    shared = (sorted_to * tied).sum(1, keepdim=True) / tied.sum(1, keepdim=True)
    off = 2 / values.shape[1] * (values - torch.where(tied, shared, sorted_to))
    return torch.zeros_like(values).scatter_(1, order, off).view_as(masks)

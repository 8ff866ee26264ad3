"""Extremal perturbations: Fong, Patrick & Vedaldi 2019, sections 3.1 to 3.3."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from service.contract import INPUT, Explanation, Facts, Map, Probe, Rows, Targets, Trace, Tracing
from service.explainers.base import Explainer, explainer
from service.explainers.baselines import baseline
from service.explainers.fields import Hidden, ScoreOf

RATE, MOMENTUM = 0.01, 0.9
WEIGHT, GROWTH = 300.0, 1.0035**800  # of the penalty on the area: at first, and how much it grows over all steps
SHARPNESS = 20.0  # of the smooth maximum: the larger, the nearer it is to the maximum


class Spread:
    """Masks that are the smooth maximum of kernels around the cells of a coarse grid: equations 6 to 8.

    A pixel at a distance d of a cell's centre gets exp(-2 max(0, d / sigma - 1/2)^2) of its value, from cells at most
    `reach` rows and columns from its own. Of these it takes sum_i s_i exp(20 s_i) / sum_i exp(20 s_i).
    """

    def __init__(self, size: tuple[int, int], grain: int, sigma: float, device: torch.device) -> None:
        self.size, self.grain = size, grain
        self.grid = -(-size[0] // grain), -(-size[1] // grain)
        self.reach = 1 + math.ceil(sigma / grain)
        near = torch.arange(-self.reach, self.reach + 1, device=device)
        # From each of a cell's pixels (axis 1) to the centres of the cells around (axis 0).
        away = (near[:, None] + 0.5) * grain - torch.arange(grain, device=device)
        distance = (away[:, None, :, None] ** 2 + away[None, :, None, :] ** 2).sqrt()
        kernel = torch.exp(-2 * (distance / sigma - 0.5).clamp(min=0) ** 2)
        self.kernel = kernel.view(len(near) ** 2, 1, grain, 1, grain)

    def __call__(self, p: Tensor) -> Tensor:
        """Return the mask (H, W) in 0..1 of a grid (h, w) in 0..1."""
        h, w = self.grid
        around = F.unfold(p[None, None], 2 * self.reach + 1, padding=self.reach).view(-1, h, 1, w, 1)
        spread = (around * self.kernel).reshape(len(around), h * self.grain, w * self.grain)
        spread = spread[:, : self.size[0], : self.size[1]]
        return (spread * (SHARPNESS * spread).softmax(0)).sum(0)


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
    grey. The map is the mean of the masks over the areas; `details` has for each the area found and the score that it
    keeps, beside that of the clean and of the hidden picture. It is a search, and not sure to find the best mask.
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

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a gradient at the input."""
        facts.require_gradient(cls.name)

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two: the steps, the mask's score, and the two pictures."""
        return (3 * self.steps + 1) * len(self.areas) * targets + 2

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (H, W) map in 0..1 a target."""
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
        # Sorted values of masks of the wanted areas; half a pixel of grey where the area is no whole number of pixels.
        pixels = torch.arange(size[0] * size[1], 0, -1, device=image.device)
        sorted_to = [(area * len(pixels) - pixels + 1).clamp(0, 1) for _, area in wanted]

        def shown(masks: Tensor) -> Tensor:
            return hidden + (image - hidden) * masks[:, None]

        def objective(seen: Trace) -> Tensor:
            own = target[seen.first : seen.first + len(seen.outputs)]
            return targets.scores(seen.outputs, self.score).gather(1, own[:, None])

        p = torch.ones(n, *spread.grid, device=image.device)
        velocity, weight = torch.zeros_like(p), WEIGHT
        for step in range(self.steps):
            mirrored = self.mirror and step % 2 == 0
            masks = torch.stack([spread(one) for one in p])
            x = shown(masks).flip(3) if mirrored else shown(masks)
            g = probe.trace(Rows.of(x), Tracing(wrt=(INPUT,)), objective).gradients[INPUT][0]  # (n, C, H, W)
            at_mask = ((g.flip(3) if mirrored else g) * (image - hidden)).sum(1)
            for i in range(n):  # one after the other: a mask's kernels take as much memory as a hundred pictures
                up = _ascent(spread, p[i], at_mask[i], sorted_to[i], weight)
                velocity[i] = MOMENTUM * velocity[i] + (1 - MOMENTUM) * up
            p = (p + RATE * velocity).clamp(0, 1)
            weight *= GROWTH ** (1 / self.steps)
        masks = torch.stack([spread(one) for one in p])
        kept = probe.trace(Rows.of(shown(masks)), Tracing(), objective).objective
        return masks, kept[:, 0]


def _ascent(spread: Spread, p: Tensor, at_mask: Tensor, sorted_to: Tensor, weight: float) -> Tensor:
    """Return the gradient of f(M) - weight |sort(M) - r|^2 at the grid (h, w), given that of f at the mask (H, W)."""
    with torch.enable_grad():
        leaf = p.detach().clone().requires_grad_()
        mask = spread(leaf)
        excess = (mask.flatten().sort().values - sorted_to).square().mean()
        value = (mask * at_mask).sum() - weight * excess
        (gradient,) = torch.autograd.grad(value, leaf)
    return gradient

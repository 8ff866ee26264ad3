"""Train LesionCount on lesions painted on crops of one fundus photograph, and measure it on held-out crops.

    python -m tests.training.lesion_count [--steps N] [--seed S] [--out PATH]

The photograph is `skimage.data.retina()`. Training cuts its pictures from the left two thirds, measuring
from the right third, so no pixel is in both. The network learns a picture's count and, besides, not to draw
it from outside the lesions. From the count alone it learns to count as well, but by the lesions'
surroundings: then no regression activation map (RAM) could be told right from wrong by where the lesions
are.

RAM: Wang & Yang 2017, "Diabetic Retinopathy Detection via Deep Convolutional Networks for Discriminative
Localization and Visual Explanation".
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import grid_sample, huber_loss, interpolate

from service.models.embedded.lesion_count import INPUT_SIZE, MEAN, STD, WEIGHTS, LesionCount, lesion_count

Region = Literal["train", "held-out"]

COLUMNS: Final[dict[Region, tuple[int, int]]] = {"train": (0, 940), "held-out": (941, 1410)}
"""First and last column of the photograph that a region's crops may read, of 1411."""

DISC: Final = (704.0, 702.0, 690.0)
"""Centre row, centre column and radius of the fundus in the photograph, in its pixels; the rest is black."""

SIDES: Final = (144.0, 280.0)
"""Smallest and largest side of a crop, in the photograph's pixels."""

MOST: Final = 20
"""The largest count; the smallest is 0."""

RADII: Final = (2.5, 7.0)
"""Smallest and largest mean radius of a lesion, in pixels of the painted picture."""

GAP: Final = 3.0
"""Least distance between two lesions, and from a lesion to the border, in pixels of the painted picture."""

RATE: Final = 3e-3
"""Peak learning rate of the convolutions."""

HEAD_RATE: Final = 3e-2
"""Peak learning rate of the linear unit."""

PICTURED: Final = 8
"""Seed of the picture that `--paint` paints."""

QUIET: Final = 0.05
"""Weight in the loss of the absolute RAM outside the lesions, averaged over the picture: in lesions, too."""

SETTLED: Final = 0.7
"""Share of the steps after which batch normalisation keeps its statistics."""

PICTURES: Final = 3000
"""How many pictures are painted for training."""


@dataclass(frozen=True)
class Painted:
    """A picture with its lesions."""

    picture: NDArray[np.uint8]
    """(160, 160, 3) RGB."""
    count: int
    """Number of lesions, 0..20."""
    mask: NDArray[np.bool_]
    """(160, 160), true inside the lesions: where there is at least half of the paint of a lesion's middle."""


class Figures(NamedTuple):
    """How well a network counts, and how well its RAM localises what it counted.

    Energy is positive RAM, upsampled bilinearly to the picture. An energy ratio is the share of the energy
    that lies inside the lesions, divided by the share of the area that they cover: 1 is chance.
    """

    r2: float
    """Coefficient of determination of the counts, at most 1."""
    mae: float
    """Mean absolute error, in lesions."""
    energy_pooled: float
    """Energy ratio with energy and area summed over all pictures that have a lesion."""
    energy_mean: float
    """Mean of the energy ratios of the pictures that have a lesion."""
    pointing: float
    """Share, 0..1, of the pictures that have a lesion on which RAM's maximum is inside one."""
    completeness: float
    """Largest |mean(RAM) + bias - output| over all pictures, in lesions."""


class _Crop(NamedTuple):
    """A turned, perhaps mirrored square of the photograph."""

    row: float
    column: float
    axes: NDArray[np.float64]
    """(2, 2): steps in the photograph, (row, column), for one picture pixel down and one right."""

    def place(self, y: float, x: float) -> tuple[float, float]:
        """Return the photograph's (row, column) under a picture's pixel."""
        half = (INPUT_SIZE - 1) / 2
        row, column = np.array([y - half, x - half]) @ self.axes
        return self.row + float(row), self.column + float(column)


@cache
def photograph() -> Tensor:
    """Return the fundus photograph, (1, 3, 1411, 1411) RGB in 0..255.

    Raises:
        RuntimeError: scikit-image, which carries it, is not installed.
    """
    try:
        data = import_module("skimage.data")
    except ImportError as e:
        raise RuntimeError(
            "painting lesions needs the fundus photograph in scikit-image; install it with "
            "'pip install heatlens[test]' or 'pip install scikit-image'"
        ) from e
    pixels = np.asarray(data.retina(), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def paint(rng: np.random.Generator, region: Region) -> Painted:
    """Cut a random picture from a region of the photograph and paint 0..20 lesions on it.

    Lesions are red (microaneurysms and haemorrhages: darker than what is under them) or yellow (exudates), of
    random size, shape, softness and contrast; they neither touch each other nor cross the border of the
    picture or of the fundus.
    """
    crop = _choose(rng, region)
    picture = _cut(crop)
    mask = np.zeros((INPUT_SIZE, INPUT_SIZE), dtype=np.bool_)
    wanted = int(rng.integers(0, MOST + 1))
    centres: list[tuple[float, float, float]] = []
    for _ in range(50 * wanted):  # A place can be taken; on a crowded picture the count is what found its place.
        if len(centres) == wanted:
            break
        radius = RADII[0] + (RADII[1] - RADII[0]) * float(rng.random()) ** 1.5
        reach = 1.3 * radius  # The farthest that an outline swings.
        y, x = (float(v) for v in rng.uniform(reach + GAP, INPUT_SIZE - 1 - reach - GAP, 2))
        if any((y - b) ** 2 + (x - a) ** 2 < (reach + r + GAP) ** 2 for b, a, r in centres):
            continue
        row, column = crop.place(y, x)
        scale = float(np.hypot(*crop.axes[0]))
        if np.hypot(row - DISC[0], column - DISC[1]) + scale * (reach + GAP) > DISC[2]:
            continue
        _blend(rng, picture, mask, y, x, radius)
        centres.append((y, x, reach))
    light = rng.uniform(0.85, 1.1) * rng.uniform(0.93, 1.07, 3)
    noisy = picture * light + rng.normal(0, rng.uniform(0, 3), picture.shape)
    return Painted(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), len(centres), mask)


def _choose(rng: np.random.Generator, region: Region) -> _Crop:
    """Return a crop that reads only the region's columns and is centred well inside the fundus."""
    first, last = COLUMNS[region]
    while True:
        side = rng.uniform(*SIDES)
        angle = rng.uniform(0, 2 * np.pi)
        mirror = rng.choice((-1.0, 1.0))
        reach = side / 2 * (abs(np.cos(angle)) + abs(np.sin(angle))) + 1  # One more for the interpolation.
        row = rng.uniform(0, 2 * DISC[0])
        if first + reach >= last - reach:
            continue
        column = rng.uniform(first + reach, last - reach)
        if np.hypot(row - DISC[0], column - DISC[1]) <= DISC[2] - 70:
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle) * mirror, np.cos(angle) * mirror]])
            return _Crop(row, column, turn * side / INPUT_SIZE)


def _cut(crop: _Crop) -> NDArray[np.float32]:
    """Return the crop resampled bilinearly, (160, 160, 3) RGB in 0..255, black outside the photograph."""
    source = photograph()
    height, width = source.shape[-2:]
    step = np.arange(INPUT_SIZE) - (INPUT_SIZE - 1) / 2
    rows = crop.row + step[:, None] * crop.axes[0, 0] + step[None] * crop.axes[1, 0]
    columns = crop.column + step[:, None] * crop.axes[0, 1] + step[None] * crop.axes[1, 1]
    # grid_sample wants (x, y) with -1 and 1 at the outermost pixels' centres.
    grid = np.stack([2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], axis=-1)
    cut = grid_sample(source, torch.from_numpy(grid[None].astype(np.float32)), align_corners=True)
    return cut[0].permute(1, 2, 0).contiguous().numpy()


def _blend(
    rng: np.random.Generator,
    picture: NDArray[np.float32],
    mask: NDArray[np.bool_],
    y: float,
    x: float,
    radius: float,
) -> None:
    """Paint one lesion of a mean radius, in pixels, into the picture and its mask, both in place."""
    reach = int(np.ceil(1.3 * radius + GAP))
    top, left = max(int(y) - reach, 0), max(int(x) - reach, 0)
    window = np.s_[top : int(y) + reach + 2, left : int(x) + reach + 2]
    under = picture[window]
    down = (top + np.arange(under.shape[0]) - y)[:, None]
    right = (left + np.arange(under.shape[1]) - x)[None]
    around = np.arctan2(down, right)
    # Two low harmonics, together within 30 %, make an oval or a bean out of the circle.
    outline = np.ones_like(around)
    for waves, most in ((2, 0.2), (3, 0.1)):
        outline += rng.uniform(0, most) * np.cos(waves * around + rng.uniform(0, 2 * np.pi))
    inside = radius * outline - np.hypot(down, right)  # Distance to the outline, in pixels, > 0 inside.
    middle = under[inside >= 0].mean(0)
    # On the optic disc, as yellow as an exudate, nobody could count one.
    if middle[1] < 130 and rng.random() < 0.4:
        colour = np.array([235.0, 205.0, 120.0]) * rng.uniform(0.85, 1.05)
        strength, soft = rng.uniform(0.45, 0.95), rng.uniform(0.3, 0.6)
    else:
        colour = middle * np.array([0.6, 0.3, 0.35]) * rng.uniform(0.8, 1.1)
        strength, soft = rng.uniform(0.55, 1.0), rng.uniform(0.35, 0.8)
    cover = (strength / (1 + np.exp(-inside / soft)))[..., None]
    picture[window] = under * (1 - cover) + colour * cover
    mask[window] |= inside >= 0


def paint_many(number: int, region: Region, seed: int) -> list[Painted]:
    """Return so many painted pictures; the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    return [paint(rng, region) for _ in range(number)]


def normalised(pictures: Tensor) -> Tensor:
    """Return the network's input (N, 3, 160, 160) of uint8 RGB pictures (N, 160, 160, 3)."""
    x = pictures.permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def ram(model: LesionCount, maps: Tensor) -> Tensor:
    """Return RAM = sum_k w_k A_k, (N, h, w), signed and without bias, of feature maps (N, C, h, w)."""
    return torch.einsum("k,nkhw->nhw", model.head.weight[0], maps)


def _upsampled(maps: Tensor) -> Tensor:
    """Return maps (N, h, w) brought bilinearly to the picture's size, (N, 160, 160)."""
    size = (INPUT_SIZE, INPUT_SIZE)
    return interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _turned(pictures: Tensor, quarters: int, mirrored: bool) -> Tensor:
    """Return pictures (..., H, W) turned by so many quarters and perhaps mirrored."""
    turned = torch.rot90(pictures, quarters, (-2, -1))
    return turned.flip(-1) if mirrored else turned


def train(steps: int, seed: int, pictures: int = PICTURES, batch: int = 16, report: int = 0) -> LesionCount:
    """Return a network trained on painted pictures; the same arguments give the same weights.

    Args:
        steps: optimiser steps.
        seed: of the pictures, the initial weights and the order, >= 0.
        pictures: how many pictures are painted, once, before the first step; every batch is turned and
            mirrored anew.
        batch: pictures in a step.
        report: print the running error after every so many steps; 0 prints nothing.
    """
    painted = paint_many(pictures, "train", seed)
    pool = torch.from_numpy(np.stack([p.picture for p in painted]))
    masks = torch.from_numpy(np.stack([p.mask for p in painted]))
    counts = torch.tensor([float(p.count) for p in painted])
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # The caller's random state is not ours to change.
        torch.manual_seed(seed)
        model = lesion_count()
    model.to(memory_format=torch.channels_last)
    # Lesions cover some 2 % of a picture, so pooled features are small and the head's weights must grow far.
    groups: list[dict[str, Any]] = [
        {"params": model.features.parameters()},
        {"params": model.head.parameters(), "lr": HEAD_RATE},
    ]
    optimiser = torch.optim.Adam(groups, lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [RATE, HEAD_RATE], total_steps=max(steps, 2), pct_start=0.15
    )
    model.train()
    seen = 0.0
    start = time.perf_counter()
    for step in range(1, steps + 1):
        if step > SETTLED * steps:
            # A batch's own statistics vary with how many lesions it has, which blurs the very count that is
            # learnt. So the last steps see the network as it is used.
            model.eval()
        chosen = torch.randint(len(pool), (batch,), generator=generator)
        turns, mirrored = torch.randint(8, (2,), generator=generator).tolist()
        x, outside = (_turned(t, turns % 4, mirrored % 2 == 1) for t in (normalised(pool[chosen]), ~masks[chosen]))
        maps = model.features(x.contiguous(memory_format=torch.channels_last))
        out = model.head(model.flatten(model.pool(maps)))[:, 0]
        loss = huber_loss(out, counts[chosen])
        loss = loss + QUIET * (_upsampled(ram(model, maps)).abs() * outside).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        seen += float((out.detach() - counts[chosen]).abs().mean())
        if report and step % report == 0:
            click.echo(f"step {step}: mean error {seen / report:.3f} lesions, {time.perf_counter() - start:.0f} s")
            seen = 0.0
    return model.to(memory_format=torch.contiguous_format).eval()


@torch.no_grad()
def evaluate(model: LesionCount, pictures: Sequence[Painted]) -> Figures:
    """Return the figures of a network, in evaluation mode, on painted pictures of which some have lesions."""
    outputs: list[Tensor] = []
    inside, energy, area, hits = [], [], [], []
    completeness = 0.0
    for first in range(0, len(pictures), 32):
        some = pictures[first : first + 32]
        maps = model.features(normalised(torch.from_numpy(np.stack([p.picture for p in some]))))
        output = model.head(model.flatten(model.pool(maps)))[:, 0]
        m = ram(model, maps)
        residual = m.double().mean((1, 2)) + model.head.bias[0].double() - output.double()
        completeness = max(completeness, float(residual.abs().max()))
        outputs.append(output)
        for one, painted in zip(_upsampled(m), some, strict=True):
            if painted.count == 0:
                continue
            mask = torch.from_numpy(painted.mask)
            positive = one.clamp(min=0).double()
            inside.append(float(positive[mask].sum()))
            energy.append(float(positive.sum()))
            area.append(float(mask.double().mean()))
            hits.append(bool(mask.flatten()[one.argmax()]))
    counts = torch.tensor([float(p.count) for p in pictures])
    error = torch.cat(outputs) - counts
    # A map without any energy localises nothing: ratio 0.
    ratios = [i / e / a if e > 0 else 0.0 for i, e, a in zip(inside, energy, area, strict=True)]
    return Figures(
        r2=1 - float(error.square().sum() / (counts - counts.mean()).square().sum()),
        mae=float(error.abs().mean()),
        energy_pooled=sum(inside) / max(sum(energy), 1e-12) / (sum(area) / len(area)),
        energy_mean=sum(ratios) / len(ratios),
        pointing=sum(hits) / len(hits),
        completeness=completeness,
    )


@click.command()
@click.option("--steps", default=800, show_default=True, type=click.IntRange(1), help="Optimiser steps.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of pictures and weights.")
@click.option("--out", default=WEIGHTS, show_default=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--held-out", default=400, show_default=True, type=click.IntRange(2), help="Pictures to measure on.")
@click.option("--paint", "painted", type=click.Path(path_type=Path, dir_okay=False), help="Only paint one picture.")
def main(steps: int, seed: int, out: Path, held_out: int, painted: Path | None) -> None:
    """Train the lesion counter, print its figures on held-out pictures, and save its weights."""
    if painted is not None:
        picture = paint(np.random.default_rng(PICTURED + seed), "held-out")
        Image.fromarray(picture.picture).save(painted)
        click.echo(f"{painted}: {picture.count} lesions")
        return
    start = time.perf_counter()
    model = train(steps, seed, PICTURES, report=100)
    click.echo(f"trained in {time.perf_counter() - start:.0f} s")
    for name, value in evaluate(model, paint_many(held_out, "held-out", seed + 1))._asdict().items():
        click.echo(f"{name}: {value:.6g}")
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, out)
    click.echo(f"saved {out} ({out.stat().st_size} bytes)")


if __name__ == "__main__":
    main()

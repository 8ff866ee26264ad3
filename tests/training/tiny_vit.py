"""Train a tiny vision transformer on painted discs, so that what its attention should show is known to the pixel.

    python -m tests.training.tiny_vit [--steps N] [--seed S] [--out PATH]
    python -m tests.training.tiny_vit --paint PICTURE

The second one paints a picture that no training has seen, for the network as `tiny_vit.toml` serves it.

Each picture has two discs on cloudy ground: one with stripes, whose direction is the class, and a plain one, which
says nothing. Colours, sizes and places say nothing of the class either. Two to three minutes on one core.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from tests.transformers import Vision

SIDE: Final = 48
"""Side of a picture, in pixels."""

PATCH: Final = 6
"""Side of a patch, in pixels."""

CLASSES: Final = ("across", "rising", "down", "falling")
"""The directions of the stripes, an eighth of a turn apart."""

RADII: Final = (7.0, 10.0)
"""Smallest and largest radius of a disc, in pixels."""

PERIOD: Final = 5.0
"""From stripe to stripe, in pixels."""

WEIGHTS: Final = Path(__file__).with_suffix(".safetensors")


MEAN, STD, LARGE, SEED = 0.5, 0.2, 6, 1_000_011
"""How pictures are painted for people: pixels are MEAN + STD x, each LARGE a side; and the seed of the one painted."""


@dataclass(frozen=True)
class Painted:
    """Pictures as a network is given them, and the truth of each."""

    x: Tensor
    """(N, 3, 48, 48), about 0 with deviation 1."""
    target: Tensor
    """(N,) the number of the class."""
    mask: Tensor
    """(N, 48, 48), true where the striped disc is."""
    other: Tensor
    """(N, 48, 48), true where the plain disc is."""


def paint(number: int, generator: torch.Generator) -> Painted:
    """Return so many pictures."""

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(number, *shape, generator=generator)

    clouds = interpolate(torch.randn(number, 3, 6, 6, generator=generator), SIDE, mode="bicubic") * 0.5
    x = clouds + uniform(3, 1, 1, low=-0.7, high=0.7)
    radius = uniform(2, low=RADII[0], high=RADII[1])
    # One disc lies in the left half and one in the right, or above and below; which is which is drawn, too.
    along = torch.stack([uniform(low=11, high=13), uniform(low=35, high=37)], 1)
    along = torch.where(uniform(1) < 0.5, along, along.flip(1))
    across = uniform(2, low=11, high=37)
    upright = uniform(1) < 0.5
    cx, cy = torch.where(upright, along, across), torch.where(upright, across, along)
    rows, columns = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    inside = (columns - cx[..., None, None]) ** 2 + (rows - cy[..., None, None]) ** 2 < radius[..., None, None] ** 2
    target = torch.randint(len(CLASSES), (number,), generator=generator)
    angle = (target * math.pi / 4)[:, None, None]
    wave = columns * torch.sin(angle) + rows * torch.cos(angle)
    stripes = torch.sin(2 * math.pi * (wave / PERIOD + uniform(1, 1))).sign()
    strength = uniform(1, 1, 1, low=0.7, high=1.2)
    for disc in range(2):
        colour = uniform(3, 1, 1, low=-1.5, high=1.5)
        filled = colour + (strength * stripes[:, None] if disc == 0 else 0)
        x = torch.where(inside[:, disc, None], filled.expand_as(x), x)
    x = x + 0.2 * torch.randn(x.shape, generator=generator)
    return Painted(x, target, inside[:, 0], inside[:, 1])


def tiny_vit(weights: Path | None = WEIGHTS) -> Vision:
    """Return the network, with its weights; None leaves it untrained."""
    network = Vision(size=SIDE, patch=PATCH, width=48, heads=4, depth=3, outputs=len(CLASSES))
    if weights is not None:
        network.load_state_dict(load_file(weights))
    return network


def train(steps: int, seed: int, batch: int = 64) -> Vision:
    """Return the network, trained."""
    torch.manual_seed(seed)
    network = tiny_vit(None).requires_grad_().train()
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.05)
            nn.init.zeros_(module.bias)
    nn.init.normal_(network.token, std=0.05)
    nn.init.normal_(network.places, std=0.05)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps, pct_start=0.1)
    started = time.perf_counter()
    for step in range(steps):
        painted = paint(batch, generator)
        loss = cross_entropy(network(painted.x), painted.target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 49:
            took = time.perf_counter() - started
            click.echo(f"step {step + 1}: loss {float(loss.detach()):.3f}, {took:.0f} s")
    return network.eval().requires_grad_(False)


def accuracy(network: Vision, number: int = 512, seed: int = 1_000_003) -> float:
    """Return the share of held-out pictures that are told right."""
    painted = paint(number, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return float((network(painted.x).argmax(1) == painted.target).float().mean())


def picture(seed: int = SEED) -> tuple[Image.Image, int]:
    """Return a painted picture as people see it, and the number of its class."""
    painted = paint(1, torch.Generator().manual_seed(seed))
    pixels = ((MEAN + STD * painted.x[0]).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    small = Image.fromarray(pixels)
    return small.resize((SIDE * LARGE, SIDE * LARGE), Image.Resampling.NEAREST), int(painted.target)


@click.command()
@click.option("--steps", default=800, show_default=True, help="Steps of training.")
@click.option("--seed", default=0, show_default=True, help="Of weights and pictures.")
@click.option("--out", default=WEIGHTS, type=click.Path(path_type=Path), show_default=True, help="Weights to write.")
@click.option("--paint", "painted", type=click.Path(path_type=Path), help="Only paint a picture, and write it here.")
def main(steps: int, seed: int, out: Path, painted: Path | None) -> None:
    """Train, measure and save; or paint."""
    if painted is not None:
        image, target = picture()
        image.save(painted)
        click.echo(f"stripes: {CLASSES[target]}")
        return
    network = train(steps, seed)
    click.echo(f"accuracy on held-out pictures: {accuracy(network):.3f}")
    save_file({name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}, out)


if __name__ == "__main__":
    main()

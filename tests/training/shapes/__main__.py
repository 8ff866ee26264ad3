"""Train networks on painted shapes, or draw what methods make of them.

python -m tests.training.shapes [NAME ...]            train all, or these, and save their weights
python -m tests.training.shapes --pictures FOLDER     draw a sheet for each network: docker/pictures holds them
python -m tests.training.shapes --paint shapes.png    only paint a picture of three shapes
"""

import time
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import save_file

from tests.training.shapes.learning import STEPS, knows, train
from tests.training.shapes.networks import HERE, NETWORKS, trained
from tests.training.shapes.painting import KINDS, paint, paint_many
from tests.training.shapes.sheets import write

FIRST = "segmenter"  # whose trunk the others begin with: pixels teach more than a picture's labels


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(NETWORKS)))
@click.option("--steps", default=STEPS, show_default=True, type=click.IntRange(1), help="Optimiser steps.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of pictures and weights.")
@click.option("--out", default=HERE, show_default=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--pictures", type=click.Path(path_type=Path, file_okay=False), help="Only draw a sheet a network.")
@click.option("--paint", "painted", type=click.Path(path_type=Path, dir_okay=False), help="Only paint a picture.")
def main(names: tuple[str, ...], steps: int, seed: int, out: Path, pictures: Path | None, painted: Path | None) -> None:
    """Train networks, print how well they know held-out pictures, and save their weights in half precision."""
    if painted is not None:
        paint(np.random.default_rng(seed), KINDS).image.save(painted)
        return
    if pictures is not None:
        for file in write(pictures):
            click.echo(f"{file}: {file.stat().st_size} bytes")
        return
    for name in names or NETWORKS:
        start = time.perf_counter()
        begin = None if name == FIRST else trained(FIRST, out)
        model = train(name, begin, steps=steps, seed=seed, report=100)
        took = time.perf_counter() - start
        weights = {key: t.half() if t.is_floating_point() else t for key, t in model.state_dict().items()}
        file = out / f"{name}.safetensors"
        save_file({key: t.contiguous() for key, t in weights.items()}, file)
        known = knows(name, trained(name, out), paint_many(300, seed + 1))
        click.echo(f"{name}: knows {known:.3f}; trained in {took:.0f} s; {file} has {file.stat().st_size} bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)  # more would give other weights
    main()

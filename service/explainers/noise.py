"""Noisy copies of a picture, the same on every device and however they are cut into batches."""

import numpy as np
import torch
from torch import Tensor

from service.contract import Rows


def gaussian(shape: tuple[int, ...], seed: int, sample: int) -> Tensor:
    """Return standard normal noise on the CPU; each (seed, sample) has its own."""
    state = int(np.random.SeedSequence([seed, sample]).generate_state(1, np.uint64)[0]) >> 1
    return torch.randn(shape, generator=torch.Generator().manual_seed(state))


def noisy(image: Tensor, samples: int, share: float, seed: int) -> Rows:
    """Return copies of a picture (1, 3, H, W) with noise whose deviation is a share of the picture's value range."""
    deviation = share * (image.max() - image.min())

    def build(i: int, j: int) -> Tensor:
        noise = torch.stack([gaussian(tuple(image.shape[1:]), seed, sample) for sample in range(i, j)])
        return image + deviation * noise.to(image.device)

    return Rows(samples, build)

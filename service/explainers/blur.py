"""Gaussian blur of pictures: what several methods smooth, or hide a picture behind."""

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_blur(x: Tensor, size: int, sigma: float) -> Tensor:
    """Return pictures (N, C, H, W) blurred by a Gaussian, mirrored at their edges; differentiable.

    Args:
        x: pictures; where one has so few pixels a side that a mirror does not show all of the kernel's, it is cut to
            what there is.
        size: odd length of the kernel, pixels; what lies further away counts for nothing.
        sigma: the Gaussian's deviation, pixels.
    """
    reach = [min(size // 2, side - 1) for side in x.shape[2:]]
    padded = F.pad(x, (reach[1], reach[1], reach[0], reach[0]), mode="reflect")
    # A Gaussian is one along each axis: two passes of n weights instead of one of n * n.
    across = F.conv2d(padded, _kernel(x, reach[1], sigma), groups=x.shape[1])
    return F.conv2d(across, _kernel(x, reach[0], sigma).transpose(2, 3), groups=x.shape[1])


def _kernel(x: Tensor, reach: int, sigma: float) -> Tensor:
    """Return the weights of one axis for each channel, (C, 1, 1, 2 reach + 1)."""
    away = torch.arange(-reach, reach + 1, dtype=torch.float64)  # in which no deviation is so small that it is zero
    kernel = (-0.5 * (away / sigma) ** 2).exp()
    return (kernel / kernel.sum()).to(x).expand(x.shape[1], 1, 1, -1)

"""Gaussian blur of pictures: what several methods smooth, or hide a picture behind."""

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_blur(x: Tensor, size: int, sigma: float) -> Tensor:
    """Return pictures (N, C, H, W) blurred by a Gaussian, mirrored at their edges; differentiable.

    Args:
        x: pictures of more than `size // 2` pixels a side.
        size: odd length of the kernel, pixels; what lies further away counts for nothing.
        sigma: the Gaussian's deviation, pixels.
    """
    away = torch.arange(size, dtype=x.dtype, device=x.device) - (size - 1) / 2
    kernel = (-0.5 * (away / sigma) ** 2).exp()
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    half = size // 2
    padded = F.pad(x, (half, half, half, half), mode="reflect")
    # A Gaussian is one along each axis: two passes of n weights instead of one of n * n.
    across = F.conv2d(padded, kernel, groups=x.shape[1])
    return F.conv2d(across, kernel.transpose(2, 3), groups=x.shape[1])

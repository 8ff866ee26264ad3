"""What affine layers add."""

import torch
from torch import Tensor, nn

_AFFINE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def offset_of(module: nn.Module) -> Tensor | None:
    """Return what a module answers to an input of zeros, by channel (C,), where it is affine; None where it is zero.

    A batch norm's, in evaluation mode, is its shift less its mean times its scale.
    """
    if isinstance(module, _AFFINE):
        return module.bias.detach() if isinstance(module.bias, Tensor) else None
    if isinstance(module, _NORMS) and module.running_mean is not None and module.running_var is not None:
        scale = torch.rsqrt(module.running_var + module.eps)
        if module.weight is not None:
            scale = scale * module.weight
        shift = 0 if module.bias is None else module.bias
        return (shift - module.running_mean * scale).detach()
    return None

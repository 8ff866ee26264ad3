"""A network that has learnt nothing: its weights permuted, from the top down. Adebayo et al. 2018, section 3.

Permuting keeps each tensor's values, and so its scale; drawing anew would make many networks answer with one class, or
with nothing. Batch norms are re-estimated, or what passes them would be far from what their weights are for.
"""

import torch
from torch import Tensor, nn

from service.models.networks import holding


def layers(network: nn.Module) -> list[nn.Module]:
    """Return the modules that have parameters of their own, in the order in which they are defined."""
    return [module for _, module in holding.modules(network) if holding.weights(module)]


def permute(network: nn.Module, share: float, pictures: Tensor, seed: int = 0) -> None:
    """Permute the weights of a share of the layers, from the last one on, in place.

    Each layer's permutation is its own, whatever the share: a larger share goes on from a smaller one.

    Args:
        network: in evaluation mode.
        share: of the layers, 0 to 1.
        pictures: (N, C, H, W), that batch norms are re-estimated on.
        seed: of the permutations.
    """
    found = layers(network)
    first = len(found) - round(share * len(found))
    with torch.no_grad():
        for i, module in enumerate(found):
            random = torch.Generator().manual_seed(seed * 1_000_003 + i)
            for _, weights in holding.weights(module):
                order = torch.randperm(weights.numel(), generator=random).to(weights.device)
                if i >= first:
                    weights.copy_(weights.reshape(-1)[order].view_as(weights))
    reestimate(network, pictures)


def reestimate(network: nn.Module, pictures: Tensor) -> None:
    """Let batch norms keep the means and variances of what passes them for some pictures, and nothing older."""
    norms = [
        m
        for _, m in holding.modules(network)
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.training = True
        with torch.no_grad():
            network(pictures)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.training = False

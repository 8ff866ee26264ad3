"""Batches go through deep and branched networks, at every switch."""

import pytest
import torch
from torch import nn

from tests.engine.incremental.checks import Branches, Head, check, headed


@pytest.mark.parametrize("window", [(1, 1), (3, 9), (17, 5), (19, 23)])
def test_every_position_of_a_deep_network(window):
    size = (19, 23)
    layers = [
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, 2, 1)),
    ]
    everywhere = torch.cartesian_prod(torch.arange(size[0] - window[0] + 1), torch.arange(size[1] - window[1] + 1))
    network = headed(size, *layers)
    check(network, size, window, corners=everywhere)
    check(network, size, window, everywhere=True)


@pytest.mark.parametrize("window", [(2, 3), (5, 20), (24, 22)])
@pytest.mark.parametrize("kind", ["inception", "residual", "dense", "phases"])
def test_branches_are_joined(kind, window):
    size = (24, 22)
    torch.manual_seed(0)
    network = Head(Branches(kind), size)
    check(network, size, window, everywhere=True)

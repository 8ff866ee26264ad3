"""Random weights answer to what they are shown, and to nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from service.models.networks.lively import lively


def inputs(side: int = 32) -> Tensor:
    return torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))


class Zero(nn.Module):
    """What initialisers leave at zero: a residual branch's gain, a layer scale, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.branch, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.gamma = nn.Parameter(1e-6 * torch.ones(8))
        self.head = nn.Linear(8, 5)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.last(self.branch(x)) * self.gamma.view(-1, 1, 1)
        return self.head(x.mean((2, 3)))


class Branch(nn.Module):
    """Mixes places, twice as loud as what it is added to, behind a gain that begins at next to nothing."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.mix, self.gamma = nn.Linear(places, places), nn.Parameter(torch.tensor([1e-5, 1e-5]))
        nn.init.normal_(self.mix.weight, std=2 / places**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma.mean() * self.mix(x)


class Mixer(nn.Module):
    """Places that a dozen residual branches mix."""

    def __init__(self, blocks: int = 12) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(16, 5)
        self.branches = nn.ModuleList(Branch(64) for _ in range(blocks))

    def places(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2)  # (N, C, 64)
        for branch in self.branches:
            x = x + branch(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.places(x).mean(2))


def deep() -> nn.Module:
    """Twenty layers that fade: a signal loses two thirds in each."""
    layers = [layer for _ in range(20) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(3, 8, 1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


@pytest.mark.parametrize("make", [Zero, deep])
def test_every_parameter_and_place_counts(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = make().eval()
    with torch.no_grad():
        before = network(inputs())
        after = lively(network, inputs())(inputs())
    assert float(before.std(0).max()) < 1e-3  # dead as its initialisers leave it
    assert float(after.std(0).max()) > 0.02
    assert after.isfinite().all()
    for name, parameter in network.named_parameters():
        (gradient,) = torch.autograd.grad(network(inputs()).square().sum(), parameter)
        assert float(gradient.abs().max()) > 0, name


def test_batch_norms_take_the_inputs_statistics() -> None:
    torch.manual_seed(0)
    network = lively(Zero(), 5 + 3 * inputs())
    seen = network.stem(5 + 3 * inputs())
    torch.testing.assert_close(network.norm.running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_each_place_stays_its_own_behind_a_dozen_blocks_that_mix_them() -> None:
    torch.manual_seed(0)
    network, x = lively(Mixer().eval(), inputs()), inputs()[:1]
    there = network.places(x)
    for row, column in ((0, 0), (3, 5), (7, 2)):
        changed = x.clone()
        changed[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 2.0
        moved = (network.places(changed) - there).square().sum(1)[0]
        assert int(moved.argmax()) == 8 * row + column
        assert float(moved.sum()) > 1.1 * float(moved.max())  # and the others hear of it


def test_seeded_and_without_a_trace_on_the_random_state() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        network = Zero()
        before = torch.get_rng_state()
        states.append(lively(network, inputs()).state_dict())
        assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_network_of_other_inputs_is_left_to_who_loads_it() -> None:
    network = nn.Linear(3, 2)
    assert lively(network, inputs()) is network

"""A draw from any generator that nobody has named shows; nothing else does."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from service.engine.network.forms.generators import generators, own_generators

DRAWS = {
    "torch": lambda: torch.rand(1),
    "torch, a permutation": lambda: torch.randperm(3),
    "python": random.random,
    "python, a choice": lambda: random.choice([1, 2, 3]),
    "numpy": np.random.random_sample,
    "numpy, normal": np.random.standard_normal,  # keeps the second of two numbers for the next call
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_show(name) -> None:
    for _ in range(2):
        before = generators()
        DRAWS[name]()
        assert generators() != before


def test_nothing_else_does() -> None:
    before = generators()
    torch.rand(1, generator=torch.Generator().manual_seed(0))
    np.random.default_rng(0).random()
    random.Random(0).random()
    torch.zeros(3).sum()
    assert generators() == before


OWN = {
    "torch": (lambda: torch.Generator().manual_seed(0), lambda own: torch.rand(1, generator=own)),
    "python": (lambda: random.Random(0), lambda own: own.random()),
    "numpy": (lambda: np.random.default_rng(0), lambda own: own.random()),
    "numpy, of arrays": (lambda: np.random.Generator(np.random.MT19937(0)), lambda own: own.random()),
    "numpy, as it was": (lambda: np.random.RandomState(0), lambda own: own.standard_normal()),
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", OWN)
def test_draws_from_a_networks_own_show(kind, nested) -> None:
    make, draw = OWN[kind]
    network = nn.Sequential(nn.Identity())
    own = make()
    network[0].own = SimpleNamespace(inner={"own": [own]}) if nested else own
    before = own_generators(network)
    assert list(before) == ["0.own.inner.own.0" if nested else "0.own"]
    assert own_generators(network) == before
    draw(own)
    assert own_generators(network) != before


def test_those_of_the_libraries_are_nobodys_own() -> None:
    network = nn.Identity()
    network.choice, network.default = [random.choice, np.random.random_sample.__self__], torch.default_generator
    network.system = random.SystemRandom()  # which has no state
    assert own_generators(network) == {}

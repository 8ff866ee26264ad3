"""A draw from any generator that nobody has named shows; nothing else does."""

import random

import numpy as np
import pytest
import torch

from service.engine.network.forms.generators import generators

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

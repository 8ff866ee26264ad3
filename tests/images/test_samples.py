"""The package's photographs are what they are taken for, in the form that a model takes."""

import numpy as np
import pytest
import torch

from service.images import Transform, crops, photographs, prepare, to_input
from tests.conftest import photograph

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), ((0.5,), (0.25,))], ids=["rgb", "grey"])
def test_photographs_are_those_of_the_collection_as_a_model_sees_them(mean, std) -> None:
    transform = Transform((64, 64), (64, 64), mean, std)
    found = photographs(transform)
    assert found.shape == (3, len(mean), 64, 64)
    for mine, name in zip(found, ("astronaut", "chelsea", "coffee"), strict=True):
        expected = to_input(prepare(photograph(name), transform), transform)[0]
        together = np.corrcoef(torch.stack([mine.flatten(), expected.flatten()]).numpy())
        assert together[0, 1] > 0.95, name


def test_crops_are_the_photographs_and_their_corners() -> None:
    transform = Transform((64, 64), (64, 64), MEAN, STD)
    found = crops(transform)
    assert found.shape == (8, 3, 64, 64)
    assert torch.equal(found[::3], photographs(transform))
    assert len({float(one.sum()) for one in found}) == 8

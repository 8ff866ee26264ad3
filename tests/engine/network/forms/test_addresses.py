"""Which part of what a layer answers is which picture's is found by shapes, and by numbers where these do not tell."""

import pytest
import torch

from service.contract import Layout
from service.engine.network.forms.addresses import Addresses, Fold, fold_of, sums

ROWS = 8
PICTURES = torch.randn(ROWS, 4, 6, 5, generator=torch.Generator().manual_seed(0))  # parts, tokens, channels


LIE = {
    "rows": (lambda x: x, Fold()),
    "windows": (lambda x: x.flatten(0, 1), Fold(0, 4)),
    "flat": (lambda x: x.flatten(0, 2), Fold(0, 24)),
    "steps first": (lambda x: x[:, 0].transpose(0, 1), Fold(1)),
    "channels first": (lambda x: x[:, 0].permute(2, 1, 0), Fold(2)),
}
MIXED = {
    "windows first": lambda x: x.transpose(0, 1).flatten(0, 1),
    "summed up": lambda x: x.sum(0, keepdim=True).expand(3, -1, -1, -1),
}


def found(lying):
    """What is found, a batch as a layer answers to it, and what it answers to the first picture."""
    many, alone = lying(PICTURES), lying(PICTURES[:1])
    part = sums(many[: len(many) // ROWS]) if len(many) % ROWS == 0 else None
    return fold_of(alone, tuple(many.shape), ROWS, part), many, alone


@pytest.mark.parametrize("name", LIE)
def test_how_pictures_lie(name) -> None:
    lying, expected = LIE[name]
    fold, many, alone = found(lying)
    assert fold == expected
    assert fold.count(many) == ROWS
    assert fold.count(alone) == 1
    for i, row in enumerate(fold.rows(many)):
        assert torch.equal(row, fold.rows(lying(PICTURES[i : i + 1]))[0])


@pytest.mark.parametrize("name", MIXED)
def test_what_shapes_and_numbers_do_not_tell_is_not_known(name) -> None:
    assert found(MIXED[name])[0] is None


def test_one_picture_at_a_time_is_all_of_its_answer() -> None:
    alone = PICTURES[0]
    assert fold_of(alone, tuple(alone.shape), 1, None) == Fold(0, 4)


def test_parts_that_are_left_over_are_no_pictures() -> None:
    assert Fold(0, 4).count(torch.zeros(6, 2)) == -1
    assert Fold(2).count(torch.zeros(6, 2)) == -1


def test_methods_see_one_row_a_picture_and_maps_where_there_are_any() -> None:
    addresses = Addresses(layouts={"tokens": Layout("tokens", (2, 3))}, folds={"windows": Fold(0, 4)})
    assert addresses.maps("tokens", PICTURES[:, 0]).shape == (ROWS, 5, 2, 3)
    assert addresses.maps("tokens+relu", PICTURES[:, 0]).shape == (ROWS, 5, 2, 3)
    assert addresses.maps("windows", PICTURES.flatten(0, 1)).shape == (ROWS, 4, 6, 5)
    assert torch.equal(addresses.maps("else", PICTURES), PICTURES)

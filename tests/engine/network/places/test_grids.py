"""Grids are found where a changed square shows, in whichever layout, and nowhere else."""

import pytest
import torch
from torch import nn

from service.contract import Layout
from service.engine.network.places.grids import (
    SQUARES,
    Candidate,
    attends,
    changed,
    default_layer,
    follows,
    grid_of,
    reach,
    scattered,
    turned,
)

SIZE = 48, 64


@pytest.fixture(scope="module")
def maps():
    """Maps (7, 12, 6, 8) of changed pictures: convolutions that know nothing of the layout under test."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 7, 4, 3), nn.ReLU(), nn.Conv2d(16, 12, 3, 2, 1))
    with torch.no_grad():
        return network(changed(torch.randn(1, 3, *SIZE)))


@pytest.mark.parametrize("prefix", range(9))
def test_tokens_behind_leading_ones(maps, prefix) -> None:
    tokens = torch.cat([torch.randn(7, prefix, 12), maps.flatten(2).mT], 1)
    layout = grid_of(tokens, SIZE)
    assert layout == Layout("tokens", (6, 8), prefix)
    assert torch.equal(layout.maps(tokens), maps)


@pytest.mark.parametrize(("before", "behind"), [(0, 1), (0, 4), (1, 4), (4, 4), (5, 4), (8, 8)])
def test_tokens_without_a_place_on_either_side(maps, before, behind) -> None:
    own = torch.randn(7, before + behind, 12)
    tokens = torch.cat([own[:, :before], maps.flatten(2).mT, own[:, before:]], 1)
    layout = grid_of(tokens, SIZE)
    assert layout == Layout("tokens", (6, 8), before, behind)
    assert torch.equal(layout.maps(tokens), maps)
    assert str(layout) == f"tokens+{before}+{behind}"


def test_channels_first_last_and_places_in_one_axis(maps) -> None:
    for output, axes in ((maps, "chw"), (maps.permute(0, 2, 3, 1), "hwc"), (maps.flatten(2), "ct")):
        layout = grid_of(output, SIZE)
        assert layout.axes == axes
        assert layout.grid == (6, 8)
        assert torch.equal(layout.maps(output), maps)
    assert str(Layout("tokens", (6, 8), 2)) == "tokens+2"


@pytest.mark.parametrize("turn", [lambda m: m.flip(3), lambda m: m.flip(2), lambda m: m.flip(2, 3), lambda m: m.mT])
def test_what_is_mirrored_or_turned_shows(maps, turn) -> None:
    assert turned(turn(maps))
    assert not turned(maps)


LOSES = {
    "spectrum": lambda m: torch.fft.fft2(m).abs(),
    "sorted": lambda m: m.flatten(2).sort(2)[0].view_as(m),
    "shuffled": lambda m: m.flatten(2)[:, :, torch.randperm(48, generator=torch.Generator().manual_seed(1))].view_as(m),
}


def gated(maps):
    """Maps behind a gate that follows all of the picture far more than a cell follows its place."""
    return (maps.abs() + torch.linspace(1, 9, 48).view(6, 8)) * (1 + 30 * maps.mean((1, 2, 3), keepdim=True)).exp()


@pytest.mark.parametrize("loses", LOSES.values(), ids=LOSES)
def test_what_changes_anywhere_is_no_place_of_the_pictures(maps, loses) -> None:
    assert scattered(loses(maps))
    assert grid_of(loses(maps), SIZE) is None


def test_what_changes_everywhere_may_still_be(maps) -> None:
    assert grid_of(gated(maps), SIZE) is None
    assert not scattered(gated(maps))
    assert not scattered(maps)
    assert not scattered(torch.ones_like(maps))  # it knows nothing of the picture
    assert not scattered(torch.fft.fft2(maps).abs()[..., :3])  # nothing is known of so few cells


def test_an_attention_of_tokens_to_tokens_shows(maps) -> None:
    tokens = maps.flatten(2).mT
    assert attends((tokens @ tokens.mT)[:, None].softmax(3))
    assert not attends(torch.zeros(7, 2, 6, 8))


def test_channels_are_no_rows_of_a_grid(maps) -> None:
    """Proportions that no picture has are not taken for a grid, however the changes happen to fall."""
    places = torch.zeros(7, 640, 8, 5)
    for row, (i, j) in enumerate(SQUARES, 1):
        places[row, i * 80 + 40, j] = 1
    assert grid_of(places, SIZE) is None


def test_a_row_of_tokens_is_no_leading_ones() -> None:
    """Where a layer has moved two places, seven rows of eight tell all squares; no square picture has seven."""
    places = torch.zeros(7, 64, 5)
    for one, (y, x) in enumerate([(3, 1), (3, 6), (7, 1), (7, 6), (3, 4), (5, 2)], 1):
        places[one, 8 * y + x] = 1
    assert grid_of(places, (128, 128)) is None


@pytest.mark.parametrize(
    ("grid", "size"),
    [
        ((6, 8), (48, 64)),  # patches of 8 side by side
        ((14, 14), (224, 224)),
        ((7, 10), (60, 85)),  # of 8 that leave a rest out
        ((8, 11), (60, 85)),  # of 8, padded
        ((12, 101), (128, 1024)),  # of 16, a step of 10 apart
    ],
)
def test_grids_of_patches(grid, size) -> None:
    places = torch.zeros(7, 1 + grid[0] * grid[1], 5)
    for one, (i, j) in enumerate(SQUARES, 1):
        y, x = (
            slice(start := round(k / 8 * n), max(start + 1, round((k + 1) / 8 * n)))
            for k, n in zip((i, j), grid, strict=True)
        )
        places[one, 1:].view(*grid, 5)[y, x] = 1
    assert grid_of(places, size) == Layout("tokens", grid, 1)


def test_rows_of_further_pictures_do_not_count(maps) -> None:
    more = torch.cat([maps, torch.randn(3, *maps.shape[1:]) * 100])
    assert grid_of(more, SIZE) == grid_of(maps, SIZE)


@pytest.mark.parametrize(
    "output",
    [
        lambda maps: maps.mean((2, 3)),
        lambda maps: maps.mean((2, 3), keepdim=True),
        lambda maps: maps.flatten(2).mT[:, torch.randperm(48, generator=torch.Generator().manual_seed(0))],
        lambda maps: torch.zeros_like(maps),
        lambda maps: (maps.flatten(2).mT @ maps.flatten(2))[:, None],  # an attention: places against places
        lambda maps: maps.flatten(2).mT.reshape(7, 3, 16, 12),  # queries and keys of heads
        lambda maps: maps[:4],
        lambda maps: maps.long(),
        lambda maps: maps.transpose(2, 3),
    ],
    ids=["averages", "1x1", "shuffled", "silent", "attention", "heads", "rows", "whole-numbers", "transposed"],
)
def test_what_is_no_grid_is_not_taken_for_one(maps, output) -> None:
    assert grid_of(output(maps), SIZE) is None


def test_a_wider_picture_shows_what_follows_its_size() -> None:
    assert follows((16, 7, 7), (16, 7, 9))
    assert follows((16, 6, 6), (16, 6, 6))  # a pool to a fixed size
    assert not follows((50, 7, 7), (64, 7, 9))
    assert not follows((16, 7, 7), None)
    assert not follows((49, 16), (63, 16))
    assert not follows((16, 1, 1), (16, 1, 2))


def test_reach_counts_cells_of_the_first_row() -> None:
    gradient = torch.zeros(2, 1 + 16, 3)
    gradient[0, 0] = gradient[1] = 1
    layout = Layout("tokens", (4, 4), 1)
    assert reach(gradient, layout) == 0
    gradient[0, 1:13, 2] = -1
    assert reach(gradient, layout) == 0.75
    assert reach(None, layout) is None


def _candidate(path, same=None, *, grid=True, grows=False, reached=1.0, linear=False, pooled=False):
    return Candidate(path, same if same is not None else hash(path), grid, grows, reached, linear, pooled)


def test_the_default_layer_is_the_last_that_all_of_the_score_depends_on() -> None:
    early, last = _candidate("early"), _candidate("last", 7)
    assert default_layer([early, last]) == "last"
    assert default_layer([early, last, _candidate("outermost", 7)]) == "outermost"
    assert default_layer([early, last, _candidate("class token only", reached=0.0)]) == "last"
    assert default_layer([early, last, _candidate("projection", linear=True)]) == "last"
    assert default_layer([early, last, _candidate("pool", pooled=True)]) == "last"
    assert default_layer([early, last, _candidate("unused", reached=None)]) == "last"
    # Small maps in which no square can be told apart any more follow the input's size all the same.
    assert default_layer([early, last, _candidate("grows", grid=False, grows=True, reached=0.3)]) == "grows"
    # Without any gradient there still is a last layer, for the methods that need none.
    assert default_layer([_candidate("early", reached=None), _candidate("last", reached=None)]) == "last"
    assert default_layer([]) is None

"""On which side tokens without a place stand is told by all answers of a network together."""

import torch

from service.engine.network.places.tokens import Open, fits_of, sides, told, unmoved

SQUARES, CELLS, GRID = ((1, 1), (1, 6), (6, 1), (6, 6), (2, 4), (4, 2)), 8, (8, 8)
WAYS = tuple(sides(GRID, 1))


def seen(noise: float, before: int) -> Open:
    """What is seen of tokens each of which changes with its own square, and with noise."""
    changes = torch.rand(6, 65, generator=torch.Generator().manual_seed(0)) * noise
    for k, (i, j) in enumerate(SQUARES):
        changes[k, before + 8 * i + j] += 1
    return Open(WAYS, *fits_of(changes, WAYS, SQUARES, CELLS))


def test_all_ways_around_a_grid() -> None:
    assert [(way.prefix, way.suffix) for way in WAYS] == [(0, 1), (1, 0)]
    assert {(way.prefix, way.suffix) for way in sides(GRID, 15)} == {(7, 8), (8, 7)}
    assert list(sides((3, 3), 9)) == []  # so many ways that one of them fits by chance


def test_changes_on_their_squares_fit_wholly() -> None:
    fits = seen(0, 1).fits
    torch.testing.assert_close(fits[WAYS[1]], 1.0)
    assert fits[WAYS[0]] < 0.1
    changes = torch.cat([torch.full((6, 1), 9.0) * torch.arange(6)[:, None], torch.eye(64)[[9, 14, 49, 54, 20, 34]]], 1)
    fits, likeness = fits_of(changes, WAYS, SQUARES, CELLS)
    assert fits[WAYS[1]] < 0.5  # where a token without a place changes most
    assert likeness > 0.99


def test_the_clearest_answers_tell_and_an_unclear_one_has_them_in_front() -> None:
    unclear = Open(WAYS, {WAYS[0]: 0.41, WAYS[1]: 0.40})
    assert told([unclear], SQUARES, CELLS) == {WAYS[1]}  # before the places, where they nearly always stand
    assert told([Open(WAYS, {WAYS[0]: 0.41, WAYS[1]: 0.1}, 0.43)], SQUARES, CELLS) == set()  # which may be chance
    assert told([Open(WAYS, {WAYS[0]: 0.0, WAYS[1]: -0.1})], SQUARES, CELLS) == set()
    for before in (0, 1):
        assert told([unclear, seen(0.1, before), unclear], SQUARES, CELLS) == {WAYS[before]}
    assert told([], SQUARES, CELLS) == set()


def test_tokens_that_no_picture_changes_are_certain() -> None:
    one, other = torch.rand(2, 65, 3, generator=torch.Generator().manual_seed(1))
    assert unmoved(one, other, WAYS) is None
    for way, at in ((WAYS[0], 64), (WAYS[1], 0)):
        same = other.clone()
        same[at] = one[at]
        assert unmoved(one, same, WAYS) == way
        against = Open(WAYS, seen(0, int(way == WAYS[0])).fits)  # what squares seem to say
        assert told([against, Open(WAYS, against.fits, certain=way)], SQUARES, CELLS) == {way}

import torch

from service.faithfulness.controls import RANDOMS, bell, control_orders, random_maps
from service.faithfulness.ordering import ranks


def test_random_maps_are_smooth_and_no_two_alike() -> None:
    maps = random_maps((56, 70))
    assert len(maps) == RANDOMS == 8
    assert {tuple(one.shape) for one in maps} == {(56, 70)}
    for one in maps:
        steps = one.diff(dim=0).abs().max()
        assert float(steps) <= 1 / 8 + 1e-9  # a cell is 8 pixels high, and its neighbour differs by 1 at most
    assert len({float(one[0, 0]) for one in maps}) == RANDOMS
    assert all(torch.equal(a, b) for a, b in zip(maps, random_maps((56, 70)), strict=True))


def test_the_bell_is_a_gaussian_of_half_of_half_a_side() -> None:
    found = bell((41, 81))
    assert float(found[20, 40]) == 1.0
    torch.testing.assert_close(found[20, 60], torch.exp(torch.tensor(-0.5, dtype=torch.float64)))
    torch.testing.assert_close(found[30, 40], found[20, 60])
    assert torch.equal(found, found.flip(0, 1))


def test_their_orders_are_found_once_a_size() -> None:
    found = control_orders((20, 24))
    assert control_orders((20, 24)) is found
    expected = [*map(ranks, random_maps((20, 24))), ranks(bell((20, 24)))]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert control_orders((24, 20))[0].shape == (24, 20)

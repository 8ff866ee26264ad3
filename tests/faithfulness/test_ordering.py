import pytest
import torch
from torch.nn import functional as F

from service.contract import Map, Target
from service.faithfulness.ordering import enlarged, flat, heat, ranks
from tests.faithfulness.conftest import a_map


def test_ranks_are_those_of_sorting_one_by_one() -> None:
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    found = ranks(values)
    expected = {place: rank for rank, place in enumerate(sorted(range(35), key=lambda i: -float(values.flatten()[i])))}
    assert found.flatten().tolist() == [expected[i] for i in range(35)]


def test_equal_values_come_in_an_order_that_favours_no_corner() -> None:
    values = torch.zeros(40, 40)
    values[3, 4] = 1
    found = ranks(values)
    assert found[3, 4] == 0
    assert torch.equal(found.flatten().sort().values, torch.arange(1600, dtype=torch.int32))
    for half in (found[:20], found[20:], found[:, :20], found[:, 20:]):
        assert abs(float(half.float().mean()) - 799.5) < 60  # within three deviations of 460 / sqrt(800)
    assert torch.equal(found, ranks(values))
    assert not torch.equal(found, ranks(values, seed=1))


def test_colours_add_up_by_their_absolute_values() -> None:
    array = torch.tensor([[[1.0, -2.0]], [[-1.0, 0.0]], [[3.0, 0.0]]])
    assert heat(a_map(array, "picture")).tolist() == [[5.0, 2.0]]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Map("one", torch.rand(2, 2)), "no target"),
        (a_map(torch.rand(4, 2, 2), "grid"), "'grid'"),
        (a_map(torch.rand(3, 2, 2), "rgb"), "'rgb'"),
        (a_map(torch.full((3, 3), 2.0)), "flat"),
        (a_map(torch.zeros(3, 2, 2), "picture"), "flat"),
        (Map("none", torch.empty(0, 0), target=Target(0)), "flat"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_maps_without_an_order_say_why(found, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=said):
        heat(found)


def test_maps_are_enlarged_as_they_ask() -> None:
    values = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    smooth = enlarged(values, (6, 6))
    torch.testing.assert_close(smooth.float(), F.interpolate(values[None, None], (6, 6), mode="bilinear")[0, 0])
    assert (
        enlarged(values, (4, 4), "nearest").tolist() == values.repeat_interleave(2, 0).repeat_interleave(2, 1).tolist()
    )
    assert torch.equal(enlarged(values, (2, 2)), values.double())
    assert flat(enlarged(torch.ones(2, 2), (5, 5)))

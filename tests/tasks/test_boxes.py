"""Boxes that are written in another way than the engine reads them are refused, with how to write them."""

import pytest
import torch
from torch import Tensor

from service.errors import CatalogError
from service.tasks.boxes import check_boxes, check_moves
from service.tasks.guess import meaning
from service.tasks.numbers.numbers import Numbers

SIZE = (40, 60)
CORNERS = torch.tensor([[2.0, 3.0, 20.0, 30.0], [30.0, 25.0, 54.0, 38.0], [0.0, 0.0, 9.0, 9.0]])
SCORES = torch.tensor([0.9, 0.5, 1.0])


def detections(corners: Tensor = CORNERS, scores: Tensor = SCORES) -> Tensor:
    """Return (2, 4, 6): all boxes for one picture, one for another, and zeros that fill up."""
    raw = torch.zeros(2, 4, 6)
    raw[0, :3] = torch.cat([corners, scores[:, None], torch.ones(3, 1)], 1)
    raw[1, 0] = raw[0, 0]
    return raw


WRONG = {
    "x, y, width, height": (torch.cat([CORNERS[:, :2], CORNERS[:, 2:] - CORNERS[:, :2]], 1), SCORES, "b[:, :2] + b["),
    "shares": (CORNERS / torch.tensor([60.0, 40.0, 60.0, 40.0]), SCORES, r"new_tensor([60, 40, 60, 40])"),
    "pixels of a larger picture": (CORNERS * 10, SCORES, "outside of the input of 40 x 60"),
    "logits": (CORNERS, torch.tensor([-2.0, 3.0, 0.5]), "lie between -2 and 3, and not between 0 and 1"),
    "percentages": (CORNERS, SCORES * 100, "a hundredth where they are percentages"),
    "all the same": (CORNERS, torch.full((3,), 200.0), "lie between 200 and 200"),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_is_written_otherwise_is_refused(how: str) -> None:
    corners, scores, says = WRONG[how]
    with pytest.raises(CatalogError) as raised:
        meaning(Numbers(detections(corners, scores), boxes=True, size=SIZE), None, None)
    assert says in str(raised.value)
    assert "; let it return" in str(raised.value)


@pytest.mark.parametrize("raw", [detections(), torch.zeros(2, 3, 6), torch.zeros(2, 0, 6)])
def test_boxes_and_none_pass(raw: Tensor) -> None:
    check_boxes(raw, SIZE)
    assert meaning(Numbers(raw, boxes=True, size=SIZE), None, None).task.name == "detection"


EXTENTS = torch.tensor([[5.0, 6.0, 21.0, 17.0], [8.0, 9.0, 30.0, 20.0]])  # x, y, width and height that pass for corners
MOVES = {
    "as corners": lambda down, right: (right, down, right, down),
    "as extents": lambda down, right: (right, down, 0, 0),
    "rows first": lambda down, right: (down, right, down, right),
    "as of a larger picture": lambda down, right: (3 * right, 3 * down, 3 * right, 3 * down),
    "not at all": lambda down, right: (0, 0, 0, 0),
    "anyhow": lambda down, right: (1, -3, 5, 2),
}
SAYS = {
    "as extents": "makes of x, y, width and height",
    "rows first": r"b[:, [1, 0, 3, 2]]",
    "as of a larger picture": "not of another size",
}


def _one(numbers: Tensor) -> Tensor:
    """Return one detection in each of two pictures (2, 1, 6)."""
    return torch.cat([numbers, torch.full((len(numbers), 1), 0.5), torch.ones(len(numbers), 1)], 1)[:, None]


def _moved(how: str, boxes: Tensor = EXTENTS):
    return lambda shift: _one(boxes + torch.tensor(MOVES[how](*shift)))


@pytest.mark.parametrize("how", sorted(MOVES.keys() - SAYS.keys()))
def test_boxes_that_move_as_pictures_do_or_in_no_known_way_pass(how: str) -> None:
    numbers = Numbers(_one(EXTENTS), boxes=True, size=SIZE, moved=_moved(how))
    assert meaning(numbers, None, None).task.name == "detection"


@pytest.mark.parametrize("how", SAYS)
def test_how_boxes_move_tells_how_they_are_written(how: str) -> None:
    numbers = Numbers(_one(EXTENTS), boxes=True, size=SIZE, moved=_moved(how))
    with pytest.raises(CatalogError) as raised:
        meaning(numbers, None, None)
    assert SAYS[how] in str(raised.value)


def _fails(shift: tuple[int, int]) -> Tensor:
    raise ValueError("it takes no such picture")


def test_what_moves_in_two_ways_or_cannot_be_moved_passes() -> None:
    mixed = torch.cat([_one(EXTENTS[:1] + 20), _one(EXTENTS[1:])])  # the first one is in another place each time
    check_moves(_one(EXTENTS), lambda shift: torch.cat([mixed[:1], _moved("as corners")(shift)[1:]]), SIZE)
    check_moves(_one(EXTENTS), lambda shift: torch.zeros(2, 0, 6), SIZE)
    check_moves(_one(EXTENTS), _fails, SIZE)
    check_moves(_one(EXTENTS[:1]), _moved("as extents", EXTENTS[:1]), SIZE, enough=3)


def test_boxes_that_are_cut_off_at_the_border_pass() -> None:
    cut = torch.tensor([[20.0, 15.0, 60.0, 40.0]]).repeat(2, 1)
    check_moves(_one(cut), _moved("as extents", cut), SIZE)


@pytest.mark.parametrize(("label", "told"), [(-1.0, "-1"), (1.5, "1.5")])
def test_a_class_that_is_no_number_from_0_on_is_refused(label: float, told: str) -> None:
    raw = detections()
    raw[0, 1, 5] = label
    with pytest.raises(CatalogError, match=rf"1 of 4 boxes have a class .*such as {told}\); let it return"):
        check_boxes(raw, SIZE)

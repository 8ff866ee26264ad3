"""Boxes that are written in another way than the engine reads them are refused, with how to write them."""

import pytest
import torch
from torch import Tensor

from service.errors import CatalogError
from service.tasks.boxes import check_boxes
from service.tasks.guess import Numbers, meaning

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

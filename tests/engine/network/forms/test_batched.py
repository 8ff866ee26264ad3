"""Boxes, scores and labels of all pictures in one tensor each are read as those of a list are."""

from typing import Any

import pytest
import torch

from service.engine.network.forms.batched import Batched
from service.engine.network.forms.listed import Listed
from service.engine.network.forms.outlet import find
from service.errors import CatalogError

N, D = 3, 5
BOXES = torch.rand(N, D, 4, generator=torch.Generator().manual_seed(0))
SCORES = torch.rand(N, D, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(N * D).view(N, D)

RETURNED: dict[str, Any] = {
    "a dictionary": {"boxes": BOXES, "scores": SCORES, "labels": LABELS},
    "a dictionary with labels of floats": {"boxes": BOXES, "scores": SCORES, "labels": LABELS.float()},
    "a tuple": (BOXES, SCORES, LABELS),
    "a tuple in another order": (LABELS, BOXES, SCORES),
    "with the number of detections": {"num": torch.full((N, 1), D), "boxes": BOXES, "scores": SCORES, "labels": LABELS},
}


@pytest.mark.parametrize("how", RETURNED)
def test_it_is_what_a_list_of_dictionaries_is(how: str) -> None:
    rows = [{"boxes": BOXES[i], "scores": SCORES[i], "labels": LABELS[i]} for i in range(N)]
    outlet = find(RETURNED[how], N, None, "mine", (32, 32))
    assert outlet.boxes
    assert torch.equal(outlet(RETURNED[how], N), Listed()(rows))
    assert "boxes" in str(outlet)


@pytest.mark.parametrize("returned", [(BOXES, SCORES), (BOXES, SCORES, LABELS.float())])
def test_which_are_the_scores_is_not_guessed(returned: Any) -> None:
    with pytest.raises(CatalogError, match=r"`scores` \(N, D\) and `labels` .* name its answer, as output = 1"):
        find(returned, N, None, "mine", (32, 32))
    assert torch.equal(find(returned, N, 1, "mine", (32, 32))(returned, N), SCORES)


@pytest.mark.parametrize("returned", [{"boxes": BOXES}, {"a": BOXES, "b": BOXES + 1, "c": SCORES}, {"c": SCORES}])
def test_what_are_no_boxes(returned: Any) -> None:
    assert Batched.of(returned, N, "mine") is None

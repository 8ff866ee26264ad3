"""Boxes of one dictionary a picture are found under any names, where shapes and kinds leave no doubt."""

import pytest
import torch

from service.engine.network.forms.listed import Listed

BOXES, SCORES, LABELS = torch.rand(3, 4), torch.rand(3), torch.tensor([2, 0, 1])
EMPTY = {"pred_boxes": torch.zeros(0, 4), "confidence": torch.zeros(0), "class_ids": torch.zeros(0).long()}

READ = {
    "torchvision's": ({"boxes": BOXES, "labels": LABELS, "scores": SCORES, "masks": torch.rand(3, 1, 8, 8)}, Listed()),
    "others'": (
        {"pred_boxes": BOXES, "confidence": SCORES, "class_ids": LABELS},
        Listed("pred_boxes", "confidence", "class_ids"),
    ),
    "with areas": (
        {"bbox": BOXES, "area": BOXES[:, 0], "score": SCORES, "cls": LABELS, "crowd": LABELS > 0},
        Listed("bbox", "score", "cls"),
    ),
}


@pytest.mark.parametrize("how", READ)
def test_what_is_what_is_told_by_shapes(how) -> None:
    one, expected = READ[how]
    listed = Listed.of([one, one], 2)
    assert listed == expected
    raw = listed([one, one])
    assert torch.equal(raw, torch.cat([BOXES, SCORES[:, None], LABELS[:, None]], 1).repeat(2, 1, 1))


def test_a_picture_without_detections_is_read_like_the_others() -> None:
    one = READ["others'"][0]
    listed = Listed.of([EMPTY, one], 2)
    assert str(listed) == "items 'pred_boxes', 'confidence' and 'class_ids' of each picture's"
    assert listed([EMPTY, one]).abs().sum((1, 2)).gt(0).tolist() == [False, True]


@pytest.mark.parametrize(
    "returned",
    [
        [EMPTY, EMPTY],
        [READ["others'"][0]],  # of two pictures
        [{"a": BOXES, "b": BOXES, "scores": SCORES, "labels": LABELS}] * 2,
        [{"a": BOXES, "x": SCORES, "y": SCORES, "labels": LABELS}] * 2,
        [{"a": BOXES, "scores": SCORES, "labels": ["a", "b", "c"]}] * 2,
        [READ["others'"][0], {"boxes": BOXES}],
        torch.rand(2, 4),
    ],
)
def test_what_is_not_told_is_not_guessed(returned) -> None:
    assert Listed.of(returned, 2) is None

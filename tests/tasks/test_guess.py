"""What outputs mean is told by their numbers where they tell, and else said to be a guess."""

import pytest
import torch

from service.errors import CatalogError
from service.tasks.guess import meaning
from service.tasks.numbers.numbers import Numbers

Y = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)) * 3
MAPS = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(1)) * 3
RECTIFIED = (Y.abs() + 0.01) / (Y.abs() + 0.01).norm(dim=1, keepdim=True)
FLOORED = (torch.randn(8, 400, generator=torch.Generator().manual_seed(2)) * 3).softmax(1).clamp(min=1e-3)
SMALL = torch.rand(8, 5) * 0.5 + 0.1
SHORT = torch.randn(8, 40, generator=torch.Generator().manual_seed(3)) * 2
HEADS = torch.cat([Y.softmax(1), (-2 * Y[:, :3]).softmax(1)], 1)
MANY = torch.randn(8, 4000, generator=torch.Generator().manual_seed(4))
SURE = ("classification", "probabilities", False)

GUESSED = {
    "softmax": (Numbers(Y.softmax(1)), "classification", "probabilities", False),
    "softmax seen": (Numbers(Y.softmax(1), ending="softmax"), "classification", "probabilities", False),
    "log-softmax": (Numbers(Y.log_softmax(1)), "classification", "log-probabilities", False),
    "sigmoid": (Numbers(Y.sigmoid()), "multilabel", "probabilities", False),
    "two softmaxes side by side": (Numbers(HEADS), "multilabel", "probabilities", True),
    "what is left of a softmax": (Numbers(1 - Y.softmax(1)), "multilabel", "probabilities", True),
    "nine tenths of a softmax": (Numbers(Y.softmax(1) * 0.9), "multilabel", "probabilities", True),
    "many alike sigmoids": (Numbers((MANY * 1e-3).sigmoid()), "multilabel", "probabilities", False),
    "log-sigmoid": (Numbers(Y.sigmoid().log(), ending="logsigmoid"), "multilabel", "log-probabilities", False),
    "one sigmoid": (Numbers(Y[:, :1].sigmoid()), "binary", "probabilities", False),
    "one output": (Numbers(Y[:, :1]), "binary", "logits", True),
    "unbounded": (Numbers(Y), "classification", "logits", True),
    "length one": (Numbers(Y / Y.norm(dim=1, keepdim=True)), "embedding", None, False),
    "rectified, of length one": (Numbers(RECTIFIED, bounded=lambda: True), "embedding", None, False),
    "a sigmoid of length one": (Numbers(RECTIFIED, ending="sigmoid"), "multilabel", "probabilities", False),
    "softmax with a floor": (Numbers(FLOORED), "classification", "probabilities", True),
    "sigmoid with a floor": (Numbers(Y.sigmoid().clamp(0.2)), "multilabel", "probabilities", False),
    "sigmoids that are all but 1": (
        Numbers(torch.tensor([[0.999, 0.999, 0.999, 1.0]]).repeat(8, 1)),
        "multilabel",
        "probabilities",
        False,
    ),
    "maps": (Numbers(MAPS), "segmentation", "logits", False),
    "maps of a softmax": (Numbers(MAPS.softmax(1)), "segmentation", "probabilities", False),
    "maps of a log-softmax": (Numbers(MAPS.log_softmax(1)), "segmentation", "log-probabilities", False),
    "one map of a sigmoid": (Numbers(MAPS[:, :1].sigmoid()), "segmentation", "probabilities", False),
    "maps of sigmoids": (Numbers(MAPS.sigmoid()), "segmentation", "probabilities", False),
    "one map of logits": (Numbers(MAPS[:, :1]), "segmentation", "logits", False),
    "one map of logits, all positive": (Numbers(MAPS[:, :1].abs(), ending="linear"), "segmentation", "logits", False),
    "one map of depth": (Numbers(MAPS[:, :1].abs()), "segmentation", "logits", True),
    "softmax in bfloat16": (Numbers(SHORT.softmax(1).bfloat16().float(), rounding=2**-7), *SURE),
    "log-softmax in bfloat16": (
        Numbers(SHORT.log_softmax(1).bfloat16().float(), rounding=2**-7),
        "classification",
        "log-probabilities",
        False,
    ),
    "a quaternion": (Numbers(Y[:, :4] / Y[:, :4].norm(dim=1, keepdim=True)), "embedding", None, True),
    "boxes": (Numbers(torch.rand(8, 3, 6), boxes=True), "detection", None, False),
    # Logits of networks that were never trained may lie anywhere, also between 0 and 1.
    "small logits of a linear map": (Numbers(SMALL, ending="linear"), "classification", "logits", True),
    "small logits": (Numbers(SMALL, bounded=lambda: False), "classification", "logits", True),
    "one small logit": (Numbers(SMALL[:, :1], ending="linear"), "binary", "logits", True),
    "a softmax without its background": (Numbers(Y.softmax(1)[:, 1:], ending="softmax", exclusive=True), *SURE),
    "logits of a softmax beside": (Numbers(Y, becomes="softmax"), "classification", "logits", False),
    "logits of sigmoids beside": (Numbers(Y, becomes="sigmoid"), "multilabel", "logits", False),
    "one logit of a sigmoid beside": (Numbers(Y[:, :1], becomes="sigmoid"), "binary", "logits", False),
    "a softmax rounded unseen": (
        Numbers(torch.round(Y.softmax(1) * 100) / 100, bounded=lambda: True),
        "classification",
        "probabilities",
        True,
    ),
    "a softmax in half unseen": (Numbers(SHORT.softmax(1).half().float()), *SURE),
    "sigmoids rounded unseen": (Numbers(torch.round(Y.sigmoid() * 100) / 100), "multilabel", "probabilities", False),
    "nothing said": (Numbers(torch.zeros(8, 5)), "classification", "logits", True),
}


@pytest.mark.parametrize("name", GUESSED)
def test_guesses(name) -> None:
    numbers, task, scale, assumed = GUESSED[name]
    found = meaning(numbers, None, None)
    assert (found.task.name, found.task.scale, found.assumed is not None) == (task, scale, assumed)
    assert not assumed or "task = " in found.remedy


@pytest.mark.parametrize(
    ("numbers", "name", "scale", "expected"),
    [
        (Numbers(Y), "multilabel", None, "logits"),
        (Numbers(Y.sigmoid()), "multilabel", None, "probabilities"),
        (Numbers(Y.softmax(1)), "classification", None, "probabilities"),
        (Numbers(Y.softmax(1)), "classification", "logits", "logits"),  # whoever says so has it so
        (Numbers(Y.sigmoid()), "classification", "logits", "logits"),
        (Numbers(Y[:, :1].sigmoid()), "binary", None, "probabilities"),
        (Numbers(Y[:, :1].sigmoid()), "regression", None, None),
        (Numbers(FLOORED), "classification", None, "probabilities"),
        (Numbers(FLOORED), "multilabel", None, "probabilities"),
        (Numbers(Y), "regression", None, None),
        (Numbers(Y), "embedding", None, None),
        (Numbers(MAPS), "segmentation", None, "logits"),
    ],
)
def test_what_is_declared_holds_and_numbers_tell_the_scale(numbers, name, scale, expected) -> None:
    found = meaning(numbers, name, scale)
    assert (found.task.name, found.task.scale, found.assumed) == (name, expected, None)


@pytest.mark.parametrize(
    ("numbers", "name", "scale", "message"),
    [
        (Numbers(Y.sigmoid()), "classification", None, "task = 'multilabel'"),
        (Numbers(HEADS), "classification", None, "2 softmaxes side by side; let it return those of one"),
        (Numbers(1 - Y.softmax(1)), "classification", None, "as 1 - p of probabilities p; let it return p"),
        (Numbers(Y[:, :1]), "classification", None, "task = 'binary'"),
        (Numbers(Y), "binary", "probabilities", "set scale = 'logits'"),
        (Numbers(Y), "multilabel", "log-probabilities", "set scale = 'logits'"),
        (Numbers(Y), "segmentation", None, "task = 'classification'"),
        (Numbers(Y), "detection", None, "task = 'classification'"),
        (Numbers(MAPS), "classification", None, "task = 'segmentation'"),
        (Numbers(MAPS, boxes=True), "embedding", None, "task = 'detection'"),
        (Numbers(Y), "regression", "logits", "has no scale"),
        (Numbers(MAPS[:, :1].abs().mul(9).round()), None, None, "whole numbers, as numbers of classes.* before argmax"),
    ],
)
def test_what_numbers_speak_against_is_refused_with_what_to_set(numbers, name, scale, message) -> None:
    with pytest.raises(CatalogError, match=message):
        meaning(numbers, name, scale)


@pytest.mark.parametrize(
    ("ending", "says"), [("sigmoid", "probabilities"), ("softmax", "probabilities"), (None, "logits")]
)
def test_what_makes_the_answers_tells_where_all_lie_at_one_place(ending, says) -> None:
    raw = torch.full((4, 5), 1.0 if ending == "sigmoid" else 0.2)
    assert meaning(Numbers(raw, ending=ending), None, None).task.scale == says


def test_only_maps_that_do_not_add_up_are_of_classes_apart() -> None:
    raised = MAPS.softmax(1).clamp(min=1e-3)
    for numbers, apart in ((MAPS.sigmoid(), True), (MAPS.softmax(1), False), (raised, False), (MAPS, False)):
        for name in (None, "segmentation"):
            assert meaning(Numbers(numbers), name, None).task.apart == apart

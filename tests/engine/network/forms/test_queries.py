"""Boxes of queries, read as the library behind them reads them."""

from types import SimpleNamespace

import pytest
import torch

from service.engine.network.forms.outlet import find
from service.errors import CatalogError

N, QUERIES, CLASSES = 2, 5, 3
SIZE = (40, 60)
generator = torch.Generator().manual_seed(0)
LOGITS = torch.randn(N, QUERIES, CLASSES + 1, generator=generator) * 2
BOXES = torch.rand(N, QUERIES, 4, generator=generator)


def _expected(process, logits):
    """What transformers makes of it: a dictionary of scores, labels and boxes a picture."""
    outputs = SimpleNamespace(logits=logits, pred_boxes=BOXES)
    found = process(outputs, threshold=0.0, target_sizes=torch.tensor([SIZE] * N))
    return [sorted(zip(f["scores"].tolist(), f["labels"].tolist(), f["boxes"].tolist(), strict=True)) for f in found]


def _found(raw):
    return [sorted((score, int(label), box) for *box, score, label in picture.tolist()) for picture in raw]


def _close(found, expected) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert [one[1] for one in mine] == [one[1] for one in theirs]
        for (score, _, box), (other, _, place) in zip(mine, theirs, strict=True):
            assert score == pytest.approx(other, abs=1e-6)
            assert box == pytest.approx(place, abs=1e-4)


@pytest.mark.parametrize("names", [("logits", "pred_boxes"), ("pred_logits", "pred_boxes")])
def test_a_label_less_than_logits_means_a_softmax_with_no_object(names) -> None:
    processor = pytest.importorskip("transformers").DetrImageProcessor
    returned = dict(zip(names, (LOGITS, BOXES), strict=True))
    outlet = find(returned, N, None, "mine", SIZE, CLASSES)
    expected = _expected(processor().post_process_object_detection, LOGITS)
    _close(_found(outlet(returned, N)), expected)
    assert "no object" in str(outlet)


def test_as_many_labels_as_logits_means_a_sigmoid_of_each() -> None:
    returned = SimpleNamespace(logits=LOGITS, pred_boxes=BOXES, loss=None)
    raw = find(returned, N, None, "mine", SIZE, CLASSES + 1)(returned, N)
    assert raw.shape == (N, QUERIES, 6)
    for n in range(N):
        for q in range(QUERIES):
            x, y, w, h = BOXES[n, q].tolist()
            place = [(x - w / 2) * 60, (y - h / 2) * 40, (x + w / 2) * 60, (y + h / 2) * 40]
            best = int(LOGITS[n, q].argmax())
            score = 1 / (1 + float((-LOGITS[n, q, best]).exp()))
            assert raw[n, q].tolist() == pytest.approx([*place, score, best], abs=1e-4)


def test_without_labels_nothing_says_which_it_is() -> None:
    returned = {"logits": LOGITS, "pred_boxes": BOXES}
    with pytest.raises(CatalogError, match=r"0 labels: give 3.*no object.*or 4.*sigmoid"):
        find(returned, N, None, "mine", SIZE)


def test_a_gradient_gets_through() -> None:
    logits, boxes = LOGITS.clone().requires_grad_(), BOXES.clone().requires_grad_()
    returned = {"logits": logits, "pred_boxes": boxes}
    find(returned, N, None, "mine", SIZE, CLASSES)(returned, N)[..., :5].sum().backward()
    assert logits.grad.any()
    assert boxes.grad.any()


@pytest.mark.parametrize(
    "returned",
    [
        torch.zeros(N, 84, 100),  # as YOLO's heads answer
        (torch.zeros(N, 84, 100), [torch.zeros(N, 84, 10, 10)]),
        {"logits": torch.zeros(N, 7, 9)},
    ],
)
def test_raw_boxes_are_refused_with_what_to_return(returned) -> None:
    with pytest.raises(CatalogError, match=r"raw boxes.*decoding and suppression.*tokens"):
        find(returned, N, None, "mine")

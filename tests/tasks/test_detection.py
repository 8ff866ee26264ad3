"""Boxes with a class and a score: a target is a box and a class, its score how well the best detection matches it."""

import pytest
import torch
from torch import nn

from service.contract import Relevance, Share
from service.engine.network.rules import read
from service.errors import CatalogError, InvalidParameter, ModelFailed, NotApplicable
from service.explainers.gradient.saliency import Saliency
from service.tasks.detection import Likeness, overlap
from tests.tasks.conftest import SIZE, VIEW, Trunk
from tests.tasks.methods import check_methods

LABELS = ("background", "cat", "dog")
PLACES = torch.tensor([[2.0, 2, 12, 12], [14, 4, 30, 20], [4, 16, 16, 30]])


def _detect(trunk, a):
    """Three boxes that move a little with the picture, of which those with a score above a tenth are kept."""
    y = trunk.fc(a.mean((2, 3))) * 2
    scores = (y[:, :3] + torch.tensor([0.5, 0.0, -0.5])).sigmoid()
    boxes = PLACES + y[:, 3:4, None].tanh()
    found = []
    for box, score in zip(boxes, scores, strict=True):
        keep = score > 0.1
        found.append({"boxes": box[keep], "scores": score[keep], "labels": torch.tensor([1, 2, 1])[keep]})
    return found


@pytest.fixture(scope="module")
def subject(make):
    return make(Trunk(_detect), "detection", labels=LABELS)


def _matched(place, index):
    """max over detections d of IoU(b, b_d) p_d, of the class."""
    place = torch.tensor(place, dtype=torch.float32)

    def score(y):
        best = torch.zeros(())
        for box, p, label in zip(y[0]["boxes"], y[0]["scores"], y[0]["labels"], strict=True):
            if int(label) == index:
                width = (torch.minimum(box[2], place[2]) - torch.maximum(box[0], place[0])).clamp(min=0)
                height = (torch.minimum(box[3], place[3]) - torch.maximum(box[1], place[1])).clamp(min=0)
                areas = (box[2] - box[0]) * (box[3] - box[1]) + (place[2] - place[0]) * (place[3] - place[1])
                best = torch.maximum(best, width * height / (areas - width * height) * p)
        return best

    return score


def _ranked(subject, x):
    (found,) = subject.plain(x)
    return [
        (found["boxes"][i].tolist(), int(found["labels"][i]), float(found["scores"][i]))
        for i in found["scores"].argsort(descending=True)
    ]


def test_methods_on_detections_and_boxes(subject, x) -> None:
    ranked = _ranked(subject, x)
    place, index, _ = ranked[0]
    check_methods(subject, x, None, _matched(place, index), "value")
    place, index, _ = ranked[1]
    check_methods(subject, x, {"detection": 1}, _matched(place, index), "value")
    box = [10 + 2 * 3, 20 + 2 * 3, 10 + 2 * 15, 20 + 2 * 15]  # pixels of the upload
    check_methods(subject, x, {"box": box, "class": "cat"}, _matched([3, 3, 15, 15], 1), "value")


def test_a_class_alone_stands_for_its_surest_detection(subject, x) -> None:
    place, index, _ = next(one for one in _ranked(subject, x) if one[1] == 2)
    check_methods(subject, x, "dog", _matched(place, index), "value")


def test_predictions_are_ranked_boxes_of_the_upload(subject, x) -> None:
    found = subject.task.predictions(subject.answer(x), subject.facts, 5, VIEW)
    ranked = _ranked(subject, x)
    assert [p.rank for p in found] == list(range(len(ranked)))
    for p, (place, index, score) in zip(found, ranked, strict=True):
        assert (p.index, p.label) == (index, LABELS[index])
        assert p.score == pytest.approx(score, rel=1e-4)
        assert p.box == pytest.approx([10 + 2 * place[0], 20 + 2 * place[1], 10 + 2 * place[2], 20 + 2 * place[3]])


def test_strength_is_the_score_of_the_detection_itself(subject, x) -> None:
    readout, targets = subject.asked(x, [{"detection": 0}])
    table = readout(subject.answer(x)[None])[0]
    assert subject.task.strength(targets.given[0], table) == pytest.approx(_ranked(subject, x)[0][2], rel=1e-4)


def test_a_picture_without_detections(subject, x) -> None:
    empty = torch.zeros(1, 0, 6)
    readout, targets = subject.asked(x, [{"detection": 0}])
    assert readout(empty).tolist() == [[0.0]]
    assert subject.task.whole(empty).tolist() == [[0.0]]
    assert subject.task.predictions(empty[0], subject.facts, 5) == []
    with pytest.raises(NotApplicable, match="detects nothing"):
        subject.task.bind(None, subject.facts, type("Clean", (), {"answer": empty[0], "view": VIEW})())
    assert targets.given[0].terms == ((0, 1.0),)


def test_classes_without_a_label_are_refused(make) -> None:
    with pytest.raises(CatalogError, match="detects class 2, and 2 labels name classes 0 to 1; give one for each"):
        make(Trunk(_detect), "detection", labels=LABELS[1:])


def test_a_class_that_no_picture_had_before_is_told(subject, x) -> None:
    raw = torch.tensor([[[0.0, 0, 9, 9, 0.5, -1]]])
    with pytest.raises(ModelFailed, match="detects class -1 in this picture"):
        subject.facts.task.predictions(raw[0], subject.facts, 5)


def test_overlap_is_intersection_over_union() -> None:
    a = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4], [1, 1, 1, 1]])
    b = torch.tensor([[0.0, 0, 4, 4], [2, 0, 6, 4], [5, 5, 6, 6], [0, 0, 4, 4]])
    torch.testing.assert_close(overlap(a, b), torch.tensor([1.0, 8 / 24, 0, 0]))


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        (3, "/targets/0"),
        ("cow", "/targets/0"),
        ({"detection": -1}, "/targets/0/detection"),
        ({"detection": 0, "class": 1}, "/targets/0/class"),
        ({"box": [0, 0, 9, 9]}, "/targets/0"),
        ({"box": [0, 0, 9], "class": 1}, "/targets/0/box"),
        ({"box": [9, 0, 0, 9], "class": 1}, "/targets/0/box"),
        ({"box": [0, 0, 9, 9], "class": "cow"}, "/targets/0/class"),
        ({"class": 1}, "/targets/0"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_field(subject, asked, pointer) -> None:
    with pytest.raises(InvalidParameter) as caught:
        subject.task.read([asked], subject.facts)
    assert caught.value.errors[0].pointer == pointer


def test_a_rank_that_is_not_there_is_refused(subject, x) -> None:
    with pytest.raises(InvalidParameter, match="there is no rank 9"):
        subject.asked(x, [{"detection": 9}])


class Loop(nn.Module):
    """A detector as torchvision's are: it takes a list of pictures, and returns as many dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Trunk(_detect)

    def forward(self, pictures):
        return [self.inner(picture[None])[0] for picture in pictures]


def test_detectors_that_loop_over_pictures(make, x) -> None:
    subject = make(Loop(), "classification", task_known=False)
    assert subject.task.name == "detection"
    assert not subject.facts.task_assumed
    rows = torch.cat([x, x.flip(3), x * 0.5])
    for i in range(3):
        expected = subject.plain(rows[i : i + 1])[0]
        found = subject.answer(rows[i : i + 1])
        torch.testing.assert_close(found[:, :4], expected["boxes"])
    assert SIZE == 32


def _query(trunk, a):
    """Two queries as DETR's: logits whose last one stands for no object, and boxes as centre and extent in shares."""
    y = trunk.fc(a.mean((2, 3))) * 2
    centres = torch.tensor([[0.3, 0.4, 0.4, 0.5], [0.7, 0.5, 0.3, 0.8]])
    return {
        "pred_logits": torch.stack([y, y[:, [2, 0, 3, 1]]], 1),
        "pred_boxes": centres + 0.05 * torch.stack([y, -y], 1).tanh(),
    }


def test_detectors_that_answer_by_queries(make, x) -> None:
    kinds = ("cat", "dog", "cow")
    subject = make(Trunk(_query), "classification", task_known=False, labels=kinds)
    assert subject.task.name == "detection"

    def read(y):
        """Each query's best class but the last, and its box in pixels."""
        found = []
        for logits, (cx, cy, w, h) in zip(y["pred_logits"][0], y["pred_boxes"][0], strict=True):
            score, label = (logits.exp() / logits.exp().sum())[:3].max(0)
            found.append((torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * SIZE, int(label), score))
        return sorted(found, key=lambda one: -one[2].item())

    place, index, score = read(subject.plain(x))[0]

    def matched(y):
        boxes, labels, scores = zip(*read(y), strict=True)
        together = [{"boxes": torch.stack(boxes), "labels": torch.tensor(labels), "scores": torch.stack(scores)}]
        return _matched(place.tolist(), index)(together)

    assert float(score) == pytest.approx(subject.task.predictions(subject.answer(x), subject.facts, 1)[0].score)
    check_methods(subject, x, {"detection": 0}, matched, "value")


def test_queries_without_labels_are_refused_for_what_is_not_known(make) -> None:
    with pytest.raises(CatalogError, match="labels: give 3"):
        make(Trunk(_query), "detection")


def test_raw_boxes_are_refused_with_what_to_return(make) -> None:
    with pytest.raises(CatalogError, match="raw boxes"):
        make(Trunk(lambda t, a: t.conv(a).flatten(2)), "detection")


class Scales(nn.Module):
    """Small boxes from one layer, large ones from a later one, and heads of boxes and scores on each."""

    def __init__(self, least: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.Tanh())
            self.later = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.Tanh())
            self.scores = nn.ModuleList([nn.Conv2d(8, 1, 1), nn.Conv2d(8, 1, 1)])
            self.places = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)])
        self.least = least

    def forward(self, x):
        fine = self.stem(x)
        found = []
        for i, (maps, extent) in enumerate(((fine, 6.0), (self.later(fine), 20.0))):
            sides = self.places[i](maps).sigmoid().mean((2, 3)) + 0.5
            boxes = torch.cat([torch.zeros_like(sides[:, :2]), sides[:, 2:] * extent], 1)
            found.append((boxes, self.scores[i](maps).mean((1, 2, 3)).sigmoid()))
        dark = (x < -1.9).float().mean((1, 2, 3))  # share of the picture that is black
        answers = []
        for n in range(len(x)):
            boxes, scores = (torch.stack([one[k][n] for one in found]) for k in range(2))
            kept = torch.ones(2, dtype=bool) & (dark[n] >= self.least)
            answers.append({"boxes": boxes[kept], "labels": torch.tensor([1, 2])[kept], "scores": scores[kept]})
        return answers


def test_the_default_layer_is_what_all_boxes_and_all_scores_are_made_of(make) -> None:
    """Later layers show nothing of a small box, and a head's of boxes nothing of scores."""
    facts = make(Scales(), "detection", labels=LABELS).facts
    assert facts.default_layer == "stem"
    assert all(facts.layers[path].gradient for path in ("stem", "later", "scores.0", "scores.1"))


def test_a_detector_that_finds_nothing_in_noise_is_looked_at_with_photographs(make) -> None:
    facts = make(Scales(least=0.01), "detection", labels=LABELS).facts
    assert (facts.default_layer, facts.no_gradient) == ("stem", None)
    assert {check.name: check.outcome for check in facts.checks}["gradient"] == "passed"


def test_a_detector_that_finds_nothing_at_all_has_gradients_that_are_not_known(make, x) -> None:
    subject = make(Scales(least=0.9), "detection", labels=LABELS)
    found = {check.name: check for check in subject.facts.checks}["gradient"]
    assert (found.outcome, subject.facts.no_gradient) == ("warning", None)
    assert "detects nothing" in found.found
    black = torch.full_like(x, -2.0) + 0.05 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    assert subject.explain(Saliency(), black, [{"detection": 0}]).maps[0].array.any()


def test_relevance_is_of_scores_and_not_of_places() -> None:
    """The derivative is of both."""
    raw = torch.tensor([[[2.0, 2, 12, 10, 0.7, 1], [3, 3, 9, 9, 0.9, 2]]], requires_grad=True)
    readout = Likeness(((1.0, 1.0, 10.0, 12.0),), (1,))
    for rule, places in ((None, True), (Relevance(), False), (Relevance(first=Share("flat")), False)):
        table = read(readout, raw, rule)
        (g,) = torch.autograd.grad(table.sum(), raw)
        assert bool(g[..., :4].any()) == places
        assert float((g * raw.detach())[..., 4].sum()) == pytest.approx(float(table.detach()))

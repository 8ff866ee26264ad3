"""A class for each pixel: a target is a class in a region that the clean picture fixes."""

import pytest
import torch
from torch.nn import functional as F

from service.contract import Clean, Tracing
from service.errors import InvalidParameter, NotApplicable
from service.explainers.cam.cam import CAM
from service.explainers.cam.grad_cam import GradCAM
from service.tasks.segmentation import covered
from tests.tasks.conftest import SIZE, VIEW, Trunk, by_hand, grad_cam
from tests.tasks.methods import check_methods

LABELS = ("background", "cat", "dog", "cow")


def _maps(trunk, a):
    return F.interpolate(trunk.conv(a) * 3, scale_factor=2, mode="bilinear")  # (N, 4, 16, 16)


@pytest.fixture(scope="module")
def subject(make):
    return make(Trunk(lambda t, a: {"out": _maps(t, a), "aux": t.conv(a)}), "segmentation", labels=LABELS)


@pytest.fixture
def wins(subject, x):
    return subject.plain(x)["out"][0].argmax(0)


def _mean(region, index, kind):
    """The mean score over a region, of what the plain network answers."""

    def score(y):
        y = y["out"] if isinstance(y, dict) else y
        y = y.softmax(1) if kind == "probability" else y
        return (y[0, index] * region).sum() / region.sum()

    return score


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_methods_on_the_predicted_region(subject, x, wins, kind) -> None:
    index = int(wins.flatten().mode().values)
    check_methods(subject, x, index, _mean((wins == index).float(), index, kind), kind)


def test_the_default_is_the_largest_class_that_is_no_background(subject, x, wins) -> None:
    sizes = torch.bincount(wins.flatten(), minlength=4)
    largest = 1 + int(sizes[1:].argmax())
    check_methods(subject, x, None, _mean((wins == largest).float(), largest, "logit"), "logit")
    only = torch.zeros(4, 16, 16)
    only[0] = 9
    assert subject.task._largest(subject.task._there(only), subject.facts).index == 0


def test_a_box_is_in_pixels_of_the_upload(subject, x) -> None:
    # The network sees 64 x 64 pixels of the upload from (10, 20) on, two for each of its own; the answer has 16 x 16.
    region = torch.zeros(16, 16)
    region[4:8, 2:6] = 1
    x0, y0 = 10 + 2 * 4, 20 + 4 * 4
    asked = {"class": "dog", "region": [x0, y0, x0 + 16, y0 + 16]}
    check_methods(subject, x, asked, _mean(region, 2, "logit"), "logit")
    half = {"class": 2, "region": [10 + 2, 20, 10 + 4, 20 + 2]}  # a quarter of the second pixel's place
    readout, _ = subject.asked(x, [half])
    expected = subject.plain(x)["out"][0, 2, 0, 0]
    torch.testing.assert_close(readout(subject.plain(x)["out"])[0, 0], expected, rtol=1e-4, atol=1e-5)
    assert VIEW.to_input((10, 20, 74, 84)) == (0, 0, SIZE, SIZE)
    assert VIEW.to_upload((0, 0, SIZE, SIZE)) == (10, 20, 74, 84)


def test_a_mask_is_a_picture_of_the_request(subject, x) -> None:
    mask = torch.zeros(SIZE, SIZE)
    mask[8:16, 4:12] = 1
    region = torch.zeros(16, 16)
    region[4:8, 2:6] = 1
    asked = {"class": 3, "region": {"mask": 0}}
    check_methods(subject, x, asked, _mean(region, 3, "probability"), "probability", masks=[mask])


def test_several_targets_have_a_column_each(subject, x, wins) -> None:
    index = int(wins.flatten().mode().values)
    asked = [index, {"class": 2, "region": [10, 20, 74, 84]}]
    readout, targets = subject.asked(x, asked)
    y = subject.plain(x)["out"]
    table = readout(y)
    scores = targets.scores(table, "logit")[0]
    expected = torch.stack([_mean((wins == index).float(), index, "logit")(y), y[0, 2].mean()])
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        targets.scores(table, "probability")[0, 1], y.softmax(1)[0, 2].mean(), rtol=1e-4, atol=1e-5
    )
    assert subject.task.strength(targets.given[1], table[0]) == pytest.approx(
        float(y.softmax(1)[0, 2].mean()), rel=1e-4
    )
    found = subject.explain(GradCAM(layer="act"), x, asked).maps
    assert [m.target.asked for m in found] == asked
    a, _, g, _ = by_hand(subject, x, lambda y: y["out"][0, 2].mean())
    torch.testing.assert_close(found[1].array, grad_cam(a, g), rtol=1e-3, atol=1e-6)


def test_predictions_are_shares_of_the_pixels(subject, x, wins) -> None:
    found = subject.task.predictions(subject.answer(x), subject.facts, 4)
    sizes = torch.bincount(wins.flatten(), minlength=4)
    assert [p.share for p in found] == sorted((s / 256 for s in sizes.tolist() if s), reverse=True)
    assert all(p.share * 256 == int(sizes[p.index]) for p in found)
    assert found[0].label == LABELS[found[0].index]


@pytest.mark.parametrize("end", ["logit", "sigmoid"])
def test_one_class_is_there_or_not(make, x, end) -> None:
    def head(t, a):
        y = _maps(t, a)
        return y.sigmoid() if end == "sigmoid" else y

    subject = make(Trunk(head, 1), "classification", task_known=False)
    assert (subject.task.name, subject.facts.task_assumed) == ("segmentation", False)

    def score(y):
        p = y if end == "sigmoid" else y.sigmoid()
        return p[0, 0].mean()

    check_methods(subject, x, {"class": 0, "region": [10, 20, 74, 84]}, score, "probability")
    answer = torch.full((1, 4, 4), -2.0)
    assert subject.task.predictions(answer, subject.facts, 3) == []
    assert subject.task.predictions(-answer, subject.facts, 3)[0].share == 1


def test_the_default_layer_holds_features_and_not_the_answer(subject) -> None:
    assert subject.facts.default_layer == "act"
    with pytest.raises(NotApplicable, match="segmentation"):
        CAM.require(subject.facts)


def test_methods_without_targets_meet_the_mean_of_each_class(subject, x, device) -> None:
    from service.contract import Rows
    from service.engine.probe import ModelProbe
    from service.engine.scheduler.run import Run

    found = ModelProbe(subject.model, device, Run()).trace(Rows.of(x), Tracing()).outputs
    y = subject.plain(x)["out"]
    torch.testing.assert_close(found, torch.cat([y.mean((2, 3)), y.softmax(1).mean((2, 3))], 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        (4, "/targets/0"),
        ("bird", "/targets/0"),
        ({"class": 1, "region": "all"}, "/targets/0/region"),
        ({"class": 1, "region": [1, 2, 3]}, "/targets/0/region"),
        ({"class": 1, "region": [5, 5, 5, 9]}, "/targets/0/region"),
        ({"class": 1, "region": {"mask": 0}}, "/targets/0/region/mask"),
        ({"class": 1, "region": {"picture": 0}}, "/targets/0/region"),
        ({"region": "predicted"}, "/targets/0"),
        ({"class": 1, "against": [2]}, "/targets/0/against"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_field(subject, asked, pointer) -> None:
    with pytest.raises(InvalidParameter) as caught:
        subject.task.read([asked], subject.facts)
    assert caught.value.errors[0].pointer == pointer


def test_regions_that_are_not_in_the_picture_are_refused(subject, x, wins) -> None:
    for asked in ({"class": 1, "region": [500, 500, 600, 600]}, {"class": 1, "region": {"mask": 0}}):
        with pytest.raises(InvalidParameter) as caught:
            subject.asked(x, [asked], masks=[torch.zeros(SIZE, SIZE)])
        assert caught.value.errors[0].pointer == "/targets/0/region"
    absent = [i for i in range(4) if not (wins == i).any()]
    for index in absent:
        with pytest.raises(InvalidParameter, match="wins at no pixel"):
            subject.asked(x, [index])


@pytest.mark.parametrize("far", [40.0, 1e30, 1e39, 1.7e308])
def test_a_box_beyond_the_input_covers_what_there_is_of_it(far) -> None:
    assert covered((-far, -far, far, far), (32, 32), (4, 4)).tolist() == [[1.0] * 4] * 4
    assert covered((16, 0, far, 8), (32, 32), (4, 4)).tolist() == [[0, 0, 1, 1], *[[0] * 4] * 3]
    assert float(covered((far, far, 1.01 * far, 1.01 * far), (32, 32), (4, 4)).sum()) == 0


def test_a_mask_is_decoded_once_however_many_targets_name_it(subject, x) -> None:
    decoded: list[int] = []

    def mask(i: int) -> torch.Tensor:
        decoded.append(i)
        return torch.ones(SIZE, SIZE)

    asked = [{"class": c, "region": {"mask": i}} for c in (1, 2, 3) for i in (0, 1)]
    given = subject.task.read(asked, subject.facts, 2)
    subject.task.bind(given, subject.facts, Clean(subject.answer(x), VIEW, lambda i: x, mask))
    assert decoded == [0, 1]


def test_classes_that_are_there_or_not_whatever_the_others_are(make, x) -> None:
    """Sigmoids at each pixel: a class is where it is above one half, which may be nowhere, or where others are, too."""
    bias = torch.tensor([0.5, 0.5, -0.3, -9.0])[:, None, None]
    subject = make(Trunk(lambda t, a: (_maps(t, a) * 2 + bias).sigmoid()), "segmentation", labels=LABELS)
    p = subject.plain(x)[0]
    there = p > 0.5
    assert (subject.task.apart, subject.task.scale) == (True, "logits")  # which stand before the sigmoid
    assert (there[0] & there[1]).any()
    assert not there[3].any()
    shares = {one.index: one.share for one in subject.task.predictions(subject.answer(x), subject.facts, 4)}
    expected = there.float().mean((1, 2)).tolist()
    assert shares == pytest.approx({i: share for i, share in enumerate(expected) if share})
    readout, targets = subject.asked(x, [{"class": 1}])
    table = readout(subject.answer(x)[None])
    score = subject.task.scores(table, "probability")[0]
    assert float(targets.given[0](score)) == pytest.approx(float(p[1][there[1]].mean()), rel=1e-4)
    odds = subject.task.evidence(readout, targets.given)(subject.answer(x)[None])
    assert float(odds) == pytest.approx(float(p[1][there[1]].logit().mean()), rel=1e-3)
    with pytest.raises(InvalidParameter, match="wins at no pixel"):
        subject.asked(x, [{"class": "cow"}])

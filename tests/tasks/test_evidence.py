"""How strongly answers speak for a target: worked out by hand for each task."""

import pytest
import torch
from torch.nn import functional as F

from service.contract import Target
from service.tasks import TASKS, task
from service.tasks.detection import Likeness
from service.tasks.embedding import Cosines
from tests.tasks.conftest import Trunk

OUTPUTS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * 3
CONTRAST = Target(2, ((2, 1.0), (0, -0.5), (4, -0.5)))


@pytest.mark.parametrize("scale", ["logits", "probabilities", "log-probabilities"])
def test_classes_that_exclude_each_other_have_log_odds(scale) -> None:
    classes = task("classification", scale)
    p = OUTPUTS.softmax(1)
    given = {"logits": OUTPUTS, "probabilities": p, "log-probabilities": p.log()}[scale]
    found = classes.evidence(classes.whole, [Target(1), CONTRAST])
    assert found.odds
    torch.testing.assert_close(found(given)[:, 0], (p[:, 1] / (1 - p[:, 1])).log(), rtol=1e-4, atol=1e-4)
    contrast = OUTPUTS[:, 2] - (OUTPUTS[:, 0] + OUTPUTS[:, 4]) / 2
    torch.testing.assert_close(found(given)[:, 1], contrast, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["multilabel", "binary"])
def test_classes_for_themselves_have_their_logits(name) -> None:
    classes = task(name)
    found = classes.evidence(classes.whole, [Target(1), Target(0)])
    assert found.odds
    assert torch.equal(found(OUTPUTS), OUTPUTS[:, [1, 0]])
    p = task(name, "probabilities")
    torch.testing.assert_close(p.evidence(p.whole, [Target(1)])(OUTPUTS.sigmoid())[:, 0], OUTPUTS[:, 1])


def test_values_are_themselves_in_their_direction() -> None:
    values = task("regression")
    found = values.evidence(values.whole, [Target(3), Target(1, ((1, -1.0),))])
    assert not found.odds
    assert torch.equal(found(OUTPUTS), torch.stack([OUTPUTS[:, 3], -OUTPUTS[:, 1]], 1))


def test_embeddings_are_their_likeness() -> None:
    directions = F.normalize(torch.randn(2, 5, generator=torch.Generator().manual_seed(1)))
    found = task("embedding").evidence(Cosines(directions, "key"), [Target(0, ((0, 1.0), (1, -1.0)))])
    assert not found.odds
    cosines = F.normalize(OUTPUTS) @ directions.T
    torch.testing.assert_close(found(OUTPUTS)[:, 0], cosines[:, 0] - cosines[:, 1])


def test_detections_have_the_odds_of_their_match() -> None:
    raw = torch.tensor([[[0.0, 0, 10, 10, 0.8, 1]], [[0.0, 0, 10, 5, 1.0, 1]], [[0.0, 0, 10, 10, 0.9, 2]]])
    found = task("detection").evidence(Likeness(((0, 0, 10, 10),), (1,)), [Target(1, ((0, 1.0),))])
    assert found.odds
    expected = torch.tensor([0.8, 0.5, 1e-6])
    torch.testing.assert_close(found(raw)[:, 0], (expected / (1 - expected)).log(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("classes", [1, 4])
def test_segmentations_have_the_mean_log_odds_of_their_region(make, x, classes) -> None:
    network = Trunk(lambda t, a: t.conv(a) * 3, classes)
    subject = make(network, "segmentation")
    box = {"class": classes - 1, "region": [10, 20, 42, 52]}  # the upper left quarter of the view
    readout, targets = subject.asked(x, [box])
    found = subject.task.evidence(readout, targets.given)
    with torch.no_grad():
        raw = subject.plain(x)
        logits = raw[0].double()
        others = logits[:-1].logsumexp(0) if classes > 1 else 0
        expected = (logits[-1] - others)[: raw.shape[2] // 2, : raw.shape[3] // 2].mean()
        torch.testing.assert_close(found(raw)[0, 0].double(), expected, rtol=1e-4, atol=1e-4)


def test_readouts_of_other_targets_have_other_keys() -> None:
    classes = task("classification")
    keys = {classes.evidence(classes.whole, [one]).key for one in (Target(1), Target(2), CONTRAST)}
    assert len(keys) == 3
    same = (Target(1, asked="cat"), Target(1, asked=1))
    assert len({classes.evidence(classes.whole, [one]).key for one in same}) == 1


@pytest.mark.parametrize("name", TASKS)
def test_a_low_class_is_one_of_rank_three_quarters(name) -> None:
    of = task(name)
    found = of.low(torch.tensor([0.0, 7.0, 1.0, 6.0, 2.0, 5.0, 3.0, 4.0]))
    if name in ("classification", "multilabel"):
        assert found == Target(2)  # seven others, six of them stronger
        assert of.low(torch.tensor([1.0])) is None
    else:
        assert found is None


def test_of_two_classes_that_exclude_each_other_neither_is_held_against_the_other() -> None:
    """The probability of one is what the other one leaves: by any method its map is the same, turned over."""
    two = torch.tensor([2.0, -1.0])
    assert float(task("classification").scores(two, "probability").sum()) == pytest.approx(1)
    assert task("classification").low(two) is None
    assert task("multilabel").low(two) == Target(1)

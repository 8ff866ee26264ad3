from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from service.contract import Targets
from service.engine.scheduler.run import Run
from service.errors import InvalidParameter, NotApplicable
from service.explainers.cam.is_cam import ISCAM
from service.explainers.cam.score_cam import ScoreCAM
from service.explainers.cam.ss_cam import SSCAM
from service.tasks.classification import Classification
from tests import oracles, tiny
from tests.explainers.conftest import Watched, assert_close, assert_within, narrow_layer, tiny_input
from tests.oracles import Case, Peer
from tests.plain import PlainProbe

# These have no layer of at most 32 channels.
WIDE_STEMS = {
    "alexnet": "features.2",
    "vgg11": "features.2",
    "resnet18": "layer1",
    "googlenet": "conv1",
    "convnext_tiny": "features.0",
}


def oracle(case: Case) -> Tensor:
    """ReLU(sum_k w_k A_k), w the softmax of f(X * H_k) - f(black) over the channels."""
    return oracles.masked_cam(case)[0]


# torch-cam scales each channel at the layer's own size (denominator max + 1e-8) and enlarges it afterwards, without
# aligned corners, so that a mask need not reach 0 or 1. It takes the logit, less that of the unmasked input, to which
# the softmax is blind.
_TORCHCAM = {"space": "normalised", "score": "logit", "baseline": "input", "normalise": "before"}
# pytorch-grad-cam enlarges first, with aligned corners, and scales at the input's size (denominator max - min + 1e-8).
# It takes the logit, and nothing off it.
_PYTORCH_GRAD_CAM = {
    "space": "normalised",
    "score": "logit",
    "baseline": "none",
    "interpolation": "bilinear-corners",
}
PEERS = {
    "torch-cam": Peer(lambda case: oracles.torchcam_raw("ScoreCAM", case), _TORCHCAM),
    "pytorch-grad-cam": Peer(lambda case: oracles.pytorch_grad_cam_raw("ScoreCAM", case), _PYTORCH_GRAD_CAM),
}


@pytest.mark.oracle("score-cam")
def test_equals_the_algorithm_and_both_peers(subject):
    x = oracles.photograph("chelsea", 64)  # a forward for every channel, by four contenders
    layer = WIDE_STEMS.get(subject.name) or narrow_layer(subject, 32)
    found = subject.explain(ScoreCAM(layer=layer), x, [281, 7])
    # Weights sum to one, so that a map is as large as the activations at most: they are its scale where they cancel.
    scale = oracles.layer_output(subject.plain, x, layer).abs().max()
    expected, cic = oracles.masked_cam(Case(subject.plain, x, layer, 281))
    assert_within(found.maps[0].array, expected, 3e-5, scale)
    assert_within(torch.tensor(found.details["cic"][0]), cic, 3e-5)
    for peer in PEERS.values():
        ours = subject.explain(ScoreCAM(layer=layer, **peer.params), x, [7]).maps[0].array
        assert_within(ours, peer.call(Case(subject.plain, x, layer, 7)), 3e-5, scale)


@pytest.mark.parametrize(("score", "tolerant"), [("probability", True), ("logit", False)])
def test_less_than_float32_is_for_what_was_measured_to_agree(score, tolerant):
    """SS-CAM's and IS-CAM's maps in bfloat16 keep a rank correlation of 0.995 and 0.991 only (photographs, lite0)."""
    assert ScoreCAM(score=score).tolerates_reduced_precision() == tolerant
    assert not SSCAM(score=score).tolerates_reduced_precision()
    assert not ISCAM(score=score).tolerates_reduced_precision()


@pytest.mark.oracle("score-cam")
@pytest.mark.parametrize("score", ["probability", "logit"])
@pytest.mark.parametrize("baseline", ["black", "none", "input"])
@pytest.mark.parametrize("weights", ["softmax", "raw"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bilinear-corners", "bicubic", "nearest"])
@pytest.mark.parametrize("normalise", ["after", "before"])
@pytest.mark.parametrize("space", ["pixels", "normalised"])
def test_every_convention_equals_the_algorithm(small, score, baseline, weights, interpolation, normalise, space):
    convention = {
        "score": score,
        "baseline": baseline,
        "weights": weights,
        "interpolation": interpolation,
        "normalise": normalise,
        "space": space,
    }
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(ScoreCAM(layer="conv2", **convention), x, [1])
    expected, cic = oracles.masked_cam(Case(subject.plain, x, "conv2", 1, convention))
    assert_close(found.maps[0].array, expected)
    assert_close(torch.tensor(found.details["cic"][0]), cic, 1e-4)


def network(seed: int = 0, sharp: float = 1.0) -> nn.Module:
    """Return a small network of 48 maps that is as sure of its classes as its logits are large."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(8, 48, 3, padding=1), nn.ReLU()]
        head = nn.Linear(48, 5)
        head.weight.data *= sharp
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


def _apart(ours: Tensor, exact: Tensor, scale: tuple[float, float]) -> float:
    """Return how far a map is from the exact one, as a share of its maximum, at the best factor of a range."""
    factors = torch.linspace(*scale, 4001, dtype=torch.float64)[:, None, None]
    return float(((ours * factors - exact).abs().amax((1, 2)) / exact.max()).min())


@given(
    seed=st.integers(0, 10_000),
    bound=st.sampled_from([0.005, 0.02, 0.1, 0.3, 1.0]),
    sharp=st.sampled_from([0.1, 10.0, 200.0]),
    asked=st.sampled_from([[0], [3, 1], [{"class": 1, "against": [2, 3]}]]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_map_is_outside_of_its_error_bound(small, seed, bound, sharp, asked):
    """Whatever the network, the picture, the targets and how sure it is of them; and it takes fewer forwards."""
    facts = small(network).facts
    targets, x = Targets(facts, facts.task.read(asked, facts)), tiny_input(seed=seed)
    probe = PlainProbe(network(seed, sharp), facts)
    exact, found = (ScoreCAM(error_bound=e).explain(probe, x, targets) for e in (0, bound))
    assert exact.exact
    assert exact.error_bound == 0
    assert found.error_bound <= bound
    assert found.exact == (found.error_bound == 0)
    assert found.exact or found.details["masks_tried"] < exact.details["distinct_masks"]
    for i, (ours, true) in enumerate(zip(found.maps, exact.maps, strict=True)):
        scale = (1.0, 1.0) if found.exact else found.details["scale"][i]
        assert _apart(ours.array, true.array, scale) <= found.error_bound + 1e-3 * bound
        for mine, cic in zip(found.details["cic"][i], exact.details["cic"][i], strict=True):
            assert mine is None or mine == pytest.approx(cic, abs=1e-5)


@pytest.mark.parametrize("bound", [0.02, 0.1])
def test_masks_that_cannot_change_much_are_not_tried(small, bound):
    subject, x, run = small(network), tiny_input(), Run()
    found = ScoreCAM(error_bound=bound).explain(subject.probe(run), x, Targets(subject.facts, [1]))
    tried, masks = found.details["masks_tried"], found.details["distinct_masks"]
    assert run.usage.forwards == 1 + tried < 1 + masks
    assert found.avoided == 49 - masks  # what was left out was not known
    assert (found.exact, 0 < found.error_bound <= bound) == (False, True)
    unknown = sum(c is None for c in found.details["cic"][0])
    assert masks - tried <= unknown < 48


def test_callers_who_watch_see_how_far_it_is_off(small):
    """Whether or not there is to be an error bound: it falls with each row, and no map is outside of it."""
    subject, x = small(network), tiny_input()
    targets = Targets(subject.facts, [1])
    exact = ScoreCAM().explain(PlainProbe(subject.plain, subject.facts), x, targets).maps[0].array
    for method in (ScoreCAM(), ScoreCAM(error_bound=0.05)):
        probe = Watched(subject)
        method.explain(probe, x, targets)
        shown = [one for part in probe.sketched for one in part]
        assert len(shown) == sum(rows.count for rows in probe.asked)
        known = [one.error_bound for one in shown if one.error_bound is not None]
        assert known == sorted(known, reverse=True)
        assert len(known) > len(shown) / 2
        for one in shown:
            if one.error_bound is not None:
                assert _apart(one.maps[0].array, exact, one.details["scale"][0]) <= one.error_bound + 1e-3
    assert ScoreCAM(score="logit").explain(Watched(subject), x, targets).error_bound is None


@pytest.mark.parametrize(
    ("params", "task", "reason"),
    [
        ({"score": "logit"}, "classification", "ask for score 'probability'"),
        ({"weights": "raw"}, "classification", "ask for weights 'softmax'"),
        ({}, "regression", "has no probabilities"),
    ],
)
def test_where_nothing_bounds_the_map_an_error_bound_is_refused(small, params, task, reason):
    subject = small(network, task=task)
    method = ScoreCAM(error_bound=0.1, **params)
    with pytest.raises(InvalidParameter, match=reason) as raised:
        method.settled(subject.facts)
    assert raised.value.errors[0].pointer == "/params/error_bound"
    with pytest.raises(InvalidParameter, match="no error bound holds here"):
        method.settled(subject.facts) if task == "regression" else subject.explain(method, tiny_input(), [0])
    ScoreCAM(**params).settled(subject.facts)


def test_probabilities_that_are_none_bound_nothing(small):
    """What a network is said to answer need not be so."""
    subject = small(network)
    facts = replace(subject.facts, task=Classification("probabilities"))
    probe, targets = PlainProbe(network(0, 200.0), facts), Targets(facts, [0])
    with pytest.raises(NotApplicable, match="outside of 0 to 1"):
        ScoreCAM(error_bound=0.1).explain(probe, tiny_input(), targets)
    assert ScoreCAM().explain(probe, tiny_input(), targets).exact


def test_an_error_bound_needs_float32():
    assert ScoreCAM().tolerates_reduced_precision()
    assert ScoreCAM().needs_float32() is None
    assert not ScoreCAM(error_bound=0.1).tolerates_reduced_precision()
    assert "float32" in ScoreCAM(error_bound=0.1).needs_float32()

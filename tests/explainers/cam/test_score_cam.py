import pytest
import torch
from torch import Tensor

from service.explainers.cam.is_cam import ISCAM
from service.explainers.cam.score_cam import ScoreCAM
from service.explainers.cam.ss_cam import SSCAM
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, assert_within, narrow_layer, tiny_input
from tests.oracles import Case, Peer

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
    assert_within(found.maps[0].array, expected, 1e-5, scale)
    assert_within(torch.tensor(found.details["cic"][0]), cic, 1e-5)
    for peer in PEERS.values():
        ours = subject.explain(ScoreCAM(layer=layer, **peer.params), x, [7]).maps[0].array
        assert_within(ours, peer.call(Case(subject.plain, x, layer, 7)), 1e-5, scale)


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

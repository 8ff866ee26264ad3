import pytest
import torch

from service.explainers.cam.masks import min_max
from service.explainers.cam.score_cam import ScoreCAM
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, assert_within, narrow_layer, tiny_input

TORCHCAM = {"space": "normalised", "score": "logit", "baseline": "input", "normalise": "before"}
# These have no layer of at most 32 channels.
WIDE_STEMS = {
    "alexnet": "features.2",
    "vgg11": "features.2",
    "resnet18": "layer1",
    "googlenet": "conv1",
    "convnext_tiny": "features.0",
}
PYTORCH_GRAD_CAM = {
    "space": "normalised",
    "score": "logit",
    "baseline": "none",
    "interpolation": "bilinear-corners",
}


@pytest.mark.oracle("score-cam")
def test_equals_the_algorithm_and_both_peers(subject):
    x = oracles.photograph("chelsea", 64)  # a forward for every channel, by four contenders
    layer = WIDE_STEMS.get(subject.name) or narrow_layer(subject, 32)
    targets = [281, 7]
    found = subject.explain(ScoreCAM(layer=layer), x, targets)
    # Weights sum to one, so that a map is as large as the activations at most: they are its scale where they cancel.
    scale = oracles.layer_output(subject.plain, x, layer).abs().max()
    expected, cic = oracles.slow_score_cam(subject.plain, x, layer, 281)
    assert_within(found.maps[0].array, expected, 1e-5, scale)
    assert_within(torch.tensor(found.details["cic"][0]), cic, 1e-5)
    for convention, peer in (
        (TORCHCAM, oracles.torchcam_score_cam),
        (PYTORCH_GRAD_CAM, oracles.pytorch_grad_cam_score_cam),
    ):
        ours = subject.explain(ScoreCAM(layer=layer, **convention), x, [7]).maps[0].array
        assert_within(ours, peer(subject.plain, x, layer, 7), 1e-5, scale)


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
    expected, cic = oracles.slow_score_cam(subject.plain, x, "conv2", 1, **convention)
    assert_close(found.maps[0].array, expected)
    assert_close(torch.tensor(found.details["cic"][0]), cic, 1e-4)


def test_dead_and_equal_channels_share_forwards_and_change_nothing(small):
    subject = small(tiny.classifier)
    for network in (subject.plain, subject.model.module):
        network.conv2.bias[:5] -= 100  # five channels never answer
        network.conv2.weight[5] = 3 * network.conv2.weight[6]  # one is another's multiple
        network.conv2.bias[5] = 3 * network.conv2.bias[6]
    x = tiny_input()
    found = subject.explain(ScoreCAM(), x, [1])
    a = oracles.layer_output(subject.plain, x, "relu2")[0]
    dead = sum(bool(channel.max() == channel.min()) for channel in a)
    assert found.details["constant_channels"] == dead >= 5
    assert found.avoided >= dead  # they and the black picture are one row
    expected, cic = oracles.slow_score_cam(subject.plain, x, "relu2", 1)
    assert_close(found.maps[0].array, expected)
    assert_close(torch.tensor(found.details["cic"][0]), cic, 1e-4)


def test_what_a_mask_of_zeros_leaves_is_black_in_pixels_and_the_mean_colour_when_normalised(small):
    subject, x = small(tiny.classifier), tiny_input()
    for network in (subject.plain, subject.model.module):
        network.conv2.bias[:] -= 100  # no channel answers: every mask is zero
    for space, colour in (("pixels", subject.facts.colour((0, 0, 0))), ("normalised", torch.zeros(3, 1, 1))):
        found = subject.explain(ScoreCAM(space=space, baseline="none", score="logit"), x, [2])
        behind = subject.plain(colour.expand(1, 3, 32, 32))[0, 2]
        assert_close(torch.tensor(found.details["cic"][0]), behind.expand(12))
        assert found.maps[0].array.eq(0).all()
        assert found.details["distinct_masks"] == 1


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_softmax_weights_sum_to_one_over_all_channels(small, scale):
    """On maps that are all the same, weights that sum to one give that map, whatever the scores are."""
    subject, x = small(tiny.classifier), tiny_input()
    for network in (subject.plain, subject.model.module):
        network.conv2.weight[:] = scale * network.conv2.weight[:1]
        network.conv2.bias[:] = scale * network.conv2.bias[:1]
    found = subject.explain(ScoreCAM(), x, [0])
    a = oracles.layer_output(subject.plain, x, "relu2")[0]
    assert found.details["channels"] == len(a) == 12
    assert_close(found.maps[0].array, a[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_min_max_never_gives_nan(dtype):
    maps = torch.stack([torch.zeros(2, 2), torch.full((2, 2), 6e-8), torch.tensor([[1.0, 2.0], [3.0, 5.0]])]).to(dtype)
    scaled = min_max(maps)
    assert torch.isfinite(scaled).all()
    assert scaled[:2].eq(0).all()
    assert scaled[2].tolist() == [[0, 0.25], [0.5, 1]]

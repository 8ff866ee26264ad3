"""What all methods by masks share, on Score-CAM."""

import pytest
import torch

from service.explainers.cam.masks import enlarged, min_max
from service.explainers.cam.score_cam import ScoreCAM
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.oracles import Case


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_min_max_never_gives_nan(dtype):
    maps = torch.stack([torch.zeros(2, 2), torch.full((2, 2), 6e-8), torch.tensor([[1.0, 2.0], [3.0, 5.0]])]).to(dtype)
    scaled = min_max(maps)
    assert torch.isfinite(scaled).all()
    assert scaled[:2].eq(0).all()
    assert scaled[2].tolist() == [[0, 0.25], [0.5, 1]]


@pytest.mark.parametrize("interpolation", ["bilinear", "bilinear-corners", "bicubic", "nearest"])
def test_masks_scaled_after_enlarging_reach_both_ends(interpolation):
    small = torch.rand(4, 5, 7, generator=torch.Generator().manual_seed(0))
    for one, mask in zip(small, enlarged(min_max(small), (33, 20), interpolation), strict=True):
        assert mask.shape == (33, 20)
        assert (mask.min(), mask.max()) == (0, 1)
        assert_close(mask, oracles.unit_range(oracles.enlarge(one, (33, 20), interpolation)))


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
    expected, cic = oracles.masked_cam(Case(subject.plain, x, "relu2", 1))
    assert_close(found.maps[0].array, expected)
    assert_close(torch.tensor(found.details["cic"][0]), cic, 1e-4)


@pytest.mark.parametrize("space", ["pixels", "normalised"])
def test_what_a_mask_of_zeros_leaves_is_black_in_pixels_and_the_mean_colour_when_normalised(small, space):
    subject, x = small(tiny.classifier), tiny_input()
    for network in (subject.plain, subject.model.module):
        network.conv2.bias[:] -= 100  # no channel answers: every mask is zero
    colour = {"pixels": subject.facts.colour((0, 0, 0)), "normalised": torch.zeros(3, 1, 1)}[space]
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

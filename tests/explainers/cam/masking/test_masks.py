"""What all methods by masks share, on Score-CAM and on a method that varies its masks."""

import copy

import pytest
import torch
from torch import Tensor

from service.contract import Targets
from service.engine.scheduler.run import Run
from service.explainers.cam.masking.masks import MaskedCAM, Variation, enlarged, min_max
from service.explainers.cam.score_cam import ScoreCAM
from tests import oracles, tiny
from tests.explainers.conftest import Watched, assert_close, tiny_input
from tests.oracles import Case


class Varied(MaskedCAM):
    """Masks as they are, dimmed, and turned over: one that stays, one that keeps zeros, and one that does not."""

    name = "varied"

    def variations(self):
        return (
            Variation(),
            Variation(lambda h: h / 2, key="dimmed"),
            Variation(lambda h: 1 - h, key="turned over", keeps_zero=False),
        )


def _varied(mask: Tensor) -> list[Tensor]:
    return [mask, mask / 2, 1 - mask]


def _kill(subject, channels):
    """Let some channels of the last layer never answer, in both copies of a network."""
    for network in (subject.plain, subject.model.module):
        network.conv2.bias[:channels] -= 100


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
    _kill(subject, 5)
    for network in (subject.plain, subject.model.module):
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
    _kill(subject, 12)  # every mask is zero
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


@pytest.mark.parametrize("dead", [0, 5, 10])
def test_f_is_averaged_over_the_variations(small, dead):
    subject, x = small(tiny.classifier), tiny_input()
    _kill(subject, dead)
    found = subject.explain(Varied(score="logit"), x, [1, 3])
    for i, target in enumerate((1, 3)):
        case = Case(subject.plain, x, "relu2", target, {"score": "logit"})
        expected, cic = oracles.masked_cam(case, _varied)
        torch.testing.assert_close(found.maps[i].array, expected, rtol=1e-4, atol=1e-5)
        assert_close(torch.tensor(found.details["cic"][i]), cic, 1e-4)


@pytest.mark.oracle("score-cam")
@pytest.mark.parametrize("method", [ScoreCAM, Varied])
def test_maps_are_right_where_nearly_equal_weights_cancel_over_the_channels(small, method):
    subject, x = small(tiny.centred), tiny_input()
    vary = _varied if method is Varied else lambda mask: [mask]
    found = subject.explain(method(layer="norm"), x, [1, 2])
    double = copy.deepcopy(subject.plain).double()
    a = oracles.layer_output(double, x.double(), "norm")[0]
    for m, target, share in zip(found.maps, (1, 2), (1e-5, 1e-6), strict=True):
        expected, cic = oracles.masked_cam(Case(double, x.double(), "norm", target), vary)
        assert expected.max() < share * (cic.softmax(0)[:, None, None] * a).abs().sum(0).max()
        assert_close(m.array, expected, 1e-4)


@pytest.mark.parametrize("dead", [0, 5, 10])
def test_passes_are_known_beforehand(small, dead):
    subject, x = small(tiny.classifier), tiny_input()
    _kill(subject, dead)
    run = Run()
    found = Varied().explain(subject.probe(run), x, Targets(subject.facts, [1]))
    assert run.usage.forwards + found.avoided == Varied().passes(subject.facts, 1) == 3 * 13 + 1
    live = 12 - found.details["constant_channels"]
    assert run.usage.forwards == 1 + 3 * (live + 1) + (live < 12)  # turned over, a mask of zeros is a row of its own


def test_callers_who_watch_see_whole_variations_after_the_first(small):
    subject, x = small(tiny.classifier), tiny_input()
    probe, targets = Watched(subject), Targets(subject.facts, [1])
    plain = subject.explain(ScoreCAM(), x, [1]).maps[0].array
    Varied().explain(probe, x, targets)
    first, second, third = probe.shown
    assert_close(first[-1], plain)
    assert not torch.equal(first[5], plain)  # it sharpens with each row
    for shown in second:
        assert torch.equal(shown, first[-1])
    assert not torch.equal(third[0], first[-1])
    for shown in third:
        assert torch.equal(shown, third[0])


def test_what_was_asked_before_is_known_by_its_key(small):
    """Not by the method or its parameters: a mask left as it is is Score-CAM's own row."""
    subject, x = small(tiny.classifier), tiny_input()

    def keys(method, image=x):
        probe = Watched(subject)
        method.explain(probe, image, Targets(subject.facts, [1]))
        return [(rows.key, rows.count) for rows in probe.asked]

    varied = keys(Varied())
    assert len(set(varied)) == 3
    assert keys(ScoreCAM()) == varied[:1]
    different = [
        keys(ScoreCAM(**params))[0]
        for params in ({"space": "normalised"}, {"interpolation": "nearest"}, {"normalise": "before"}, {"layer": "bn1"})
    ]
    assert len({*varied, *different, keys(ScoreCAM(), tiny_input(seed=4))[0]}) == 8
    same = [{"score": "logit"}, {"baseline": "none"}, {"weights": "raw"}]  # what is made of outputs, not outputs
    assert {keys(ScoreCAM(**params))[0] for params in same} == {varied[0]}


def test_masks_are_within_zero_and_one_however_maps_are_enlarged():
    scaled = min_max(torch.rand(6, 4, 5, generator=torch.Generator().manual_seed(0)).round())
    for interpolation in ("bilinear", "bilinear-corners", "bicubic", "nearest"):
        for normalise in ("after", "before"):
            found = enlarged(scaled, (23, 31), interpolation, normalise)
            assert (float(found.min()), float(found.max())) == (0, 1)

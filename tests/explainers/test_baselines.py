import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from service.explainers.baselines import baseline, blurred
from tests import tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.oracles import IMAGENET_MEAN, IMAGENET_STD


@pytest.mark.parametrize("deviation", [0.1, 0.3, 1, 2.5, 20, 100])
@pytest.mark.parametrize("size", [(32, 32), (7, 40), (1, 5)])
def test_a_blur_is_scipys_with_edges_that_go_on(deviation, size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter(x.double().numpy(), (0, 0, deviation, deviation), mode="nearest", truncate=4.0)
    assert_close(blurred(x, deviation), torch.from_numpy(expected), 3e-6)


def test_no_blur_is_the_picture():
    x = tiny_input()
    assert torch.equal(blurred(x, 0), x)


def test_a_blur_leaves_a_colour_as_it_is():
    x = torch.tensor([0.3, -2.0, 1.7]).view(1, 3, 1, 1).expand(1, 3, 40, 24)
    for deviation in (0.5, 5, 80):
        assert_close(blurred(x, deviation), x, 3e-6)


@pytest.mark.parametrize(
    ("name", "rgb"),
    [("black", (0, 0, 0)), ("white", (1, 1, 1)), ("grey", (0.5, 0.5, 0.5)), ("#3366cc", (0.2, 0.4, 0.8))],
)
def test_colours_are_shown_as_the_network_sees_them(small, name, rgb):
    x = tiny_input()
    found = baseline(small(tiny.classifier).facts, x, name)
    assert found.shape == x.shape
    expected = (np.array(rgb) - IMAGENET_MEAN) / IMAGENET_STD
    assert_close(found, torch.tensor(expected, dtype=torch.float32).view(1, 3, 1, 1).expand_as(x), 1e-6)


def test_the_mean_colour_is_zero_and_the_blur_has_the_pictures_size(small):
    facts = small(tiny.classifier).facts
    x = torch.randn(1, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(baseline(facts, x, "mean"), torch.zeros_like(x))
    assert torch.equal(baseline(facts, x, "blur"), blurred(x, 20 / 7))
    assert float(baseline(facts, x, "blur").std()) < 0.2 * float(x.std())

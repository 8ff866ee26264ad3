"""Colours in a model's input space, whatever its channels are."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from service.contract import Facts
from service.images import Transform, prepare, to_input
from service.tasks import task

TRANSFORMS = {
    "rgb": Transform(8, (8, 8), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    "bgr": Transform(8, (8, 8), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), order="bgr"),
    "l": Transform(8, (8, 8), (0.4,), (0.2,)),
    "rgba": Transform(8, (8, 8), (0.1, 0.2, 0.3, 0.0), (0.4, 0.5, 0.6, 1.0)),
    "bgra": Transform(8, (8, 8), (0.1, 0.2, 0.3, 0.5), (0.4, 0.5, 0.6, 0.5), order="bgr"),
    "rgb, 0 to 255": Transform(8, (8, 8), (104.0, 117.0, 123.0), (2.0, 1.0, 3.0), range=(0.0, 255.0)),
    "rgb, -1 to 1": Transform(8, (8, 8), (0.0,) * 3, (1.0,) * 3, range=(-1.0, 1.0)),
}


def facts(transform: Transform) -> Facts:
    mean, std = transform.statistics
    return Facts(
        "m", task("classification"), 2, transform.crop, mean, std, {}, None, None, 0, channels=transform.channels
    )


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_colour_is_what_a_picture_of_it_becomes(name: str) -> None:
    transform = TRANSFORMS[name]
    assert transform.channels == name.split(",")[0]
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (51, 102, 204), (0, 0, 0), (255, 255, 255)):
        x = to_input(prepare(Image.new("RGB", (8, 8), colour), transform), transform)
        found = facts(transform).colour([value / 255 for value in colour])
        assert found.shape == (len(transform.channels), 1, 1)
        # A grey picture has 256 levels, and a colour has not.
        step = 0.5 / 255 / min(transform.statistics[1]) if transform.channels == "l" else 1e-5 * float(x.abs().max())
        torch.testing.assert_close(found.expand_as(x[0]), x[0], atol=step + 1e-6, rtol=0)
        assert facts(transform).input_shape == x.shape[1:]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_is_painted_is_shown(name: str) -> None:
    rgb = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    if name == "l":
        rgb = rgb[:, :1].expand(-1, 3, -1, -1)
    made = facts(TRANSFORMS[name])
    torch.testing.assert_close(made.shown(made.painted(rgb)), rgb, atol=1e-5, rtol=1e-5)


def test_grey_is_the_luma_that_pictures_are_made_grey_by() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    made = facts(dataclasses.replace(TRANSFORMS["l"], mean=(0.0,), std=(1.0,)))
    painted = made.painted(torch.from_numpy(pixels / 255.0).float().permute(2, 0, 1)[None])[0, 0]
    grey = np.asarray(Image.fromarray(pixels).convert("L")) / 255
    np.testing.assert_allclose(painted.numpy(), grey, atol=0.51 / 255)

"""A preprocessing that is written here is found again by looking at what it makes of pictures."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from service.images import Transform, prepare, to_input
from service.models.measured import Floats, measured

PLAIN = Transform(73, (64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
CASES = {
    "crop": PLAIN,
    "half a pixel rounded down": replace(PLAIN, resize=75, centre="down"),
    "no margin": replace(PLAIN, resize=64),
    "bilinear": replace(PLAIN, interpolation="bilinear"),
    "squash": replace(PLAIN, fit="squash", resize=(64, 64)),
    "squash with a margin": replace(PLAIN, fit="squash", resize=(73, 73)),
    "squash to a rectangle": replace(PLAIN, fit="squash", crop=(48, 96), resize=(48, 96)),
    "pad": replace(PLAIN, fit="pad", resize=(64, 64)),
    "blue first": replace(PLAIN, order="bgr", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)),
    "0 to 255": replace(PLAIN, mean=(0.0,) * 3, std=(1 / 255,) * 3),
    "grey": replace(PLAIN, mean=(0.4,), std=(0.2,)),
}


@pytest.mark.parametrize("name", CASES)
def test_found_again(name: str) -> None:
    hidden = CASES[name]

    def process(picture: Image.Image) -> Floats:
        return to_input(prepare(picture, hidden), hidden)[0].numpy().astype(np.float64)

    found = measured(process, ["bilinear", "bicubic"])
    assert found.error < 1e-4
    assert not found.varies
    known = found.known
    assert (known["fit"], known["interpolation"], known["input_size"]) == (
        hidden.fit,
        hidden.interpolation,
        hidden.crop,
    )
    assert known["resize"] == hidden.resize
    assert known["mean"] == pytest.approx(hidden.mean, abs=1e-5)
    assert known["std"] == pytest.approx(hidden.std, rel=1e-5)
    assert (known["order"] or "rgb") == hidden.order
    assert known.get("centre", "even") == hidden.centre


def test_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match=r"it makes \(16, 768\) of a picture, and not \(channels, height, width\)"):
        measured(lambda picture: np.zeros((16, 768)), ["bilinear"])


def test_size_that_follows_the_picture() -> None:
    def process(picture: Image.Image) -> Floats:
        width, height = picture.size
        scaled = picture.resize((64 * width // min(width, height), 64 * height // min(width, height)))
        return np.asarray(scaled, np.float64).transpose(2, 0, 1) / 255

    found = measured(process, ["bilinear"])
    assert found.varies
    assert (found.known["input_size"], found.known["fit"]) == ((64, 64), "pad")

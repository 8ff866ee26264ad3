"""What goes on behind a picture's end is seen in none that is whole."""

import numpy as np
import pytest
from PIL import Image

from service.images.containers.continued import FILLING, differ


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK", "RGBA"])
@pytest.mark.parametrize("at", [(0, 0), (29, 63), (3, 64), (17, 129)])
def test_one_pixel_makes_the_difference(mode, at):
    one = Image.fromarray(np.random.default_rng(0).integers(0, 256, (130, 30, 3), np.uint8)).convert(mode)
    other = one.copy()
    assert not differ(one, other)
    value = other.getpixel(at)
    other.putpixel(at, (*value[:-1], value[-1] ^ 255) if isinstance(value, tuple) else value ^ 255)
    assert differ(one, other)


def test_other_sizes_and_colours_are_others():
    one = Image.new("L", (4, 4))
    assert differ(one, Image.new("L", (4, 5)))
    assert differ(one, Image.new("RGB", (4, 4)))


def test_the_filling_has_no_marker_and_begins_with_no_noughts():
    assert 255 not in FILLING
    assert FILLING[0] >= 128

"""JPEGs: whatever says that there are more pixels than are coded, none is made up in silence."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from service.errors import UnprocessableImage
from service.images import decode
from tests.conftest import encoded

SLOPES = Image.fromarray(np.add.outer(np.arange(64) * 7, np.arange(64) * 3).astype(np.uint8))
MODES = ("RGB", "L", "CMYK")


def read(data):
    return decode(data, max_bytes=2**22, max_pixels=2**20)


def saying(data, width, height):
    """Have a JPEG say another size."""
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("said", [(64, 80), (80, 64), (900, 900)])
def test_blocks_that_are_said_and_not_coded_are_told(mode, progressive, said):
    data = encoded(SLOPES.convert(mode), "JPEG", progressive=progressive)
    assert read(data).size == (64, 64)
    with pytest.raises(UnprocessableImage, match="damaged or cut off"):
        read(saying(data, *said))


@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_an_end_behind_what_is_cut_off_does_not_mend_it(share):
    data = encoded(SLOPES.convert("RGB").resize((256, 256)), "JPEG", quality=95)
    with pytest.raises(UnprocessableImage, match="damaged or cut off"):
        read(data[: int(share * len(data))] + b"\xff\xd9")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("value", [127, 128])
def test_grey_that_is_coded_is_grey(mode, progressive, value):
    grey = Image.new(mode, (70, 50), (value,) * len(mode) if mode != "L" else value)
    data = encoded(grey, "JPEG", progressive=progressive)
    assert np.array_equal(np.asarray(read(data)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_what_follows_the_end_is_no_block():
    data = encoded(Image.new("RGB", (64, 64), (128, 128, 128)), "JPEG")
    assert np.array_equal(np.asarray(read(data + b"\xff\xda\0\x02trailer" * 9)), np.asarray(read(data)))


def test_the_first_of_several_pictures_counts():
    grey, other = Image.new("RGB", (64, 64), (128, 128, 128)), SLOPES.convert("RGB")
    assert read(encoded(grey, "MPO", save_all=True, append_images=[other])).getpixel((63, 63)) == (128, 128, 128)

"""JPEGs: whatever says that there are more pixels than are coded, none is made up in silence."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from service.errors import UnprocessableImage
from service.images import decode
from service.images.containers.jpeg import Whole
from service.images.decoding import warnings_of
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


NOISE = np.random.default_rng(0).integers(0, 40, (64, 64, 3))
PICTURE = Image.fromarray((np.asarray(SLOPES.convert("RGB")) // 2 + NOISE).astype(np.uint8))
WAYS = {
    "plain": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "restarts, progressive": {"restart_marker_blocks": 3, "progressive": True},
    "restarts, fine": {"restart_marker_rows": 1, "subsampling": 0, "quality": 98},
}


def scans(data):
    """Return where the coded values of each scan begin and end."""
    found, at = [], data.find(b"\xff\xda")
    while at >= 0:
        start = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        end = start
        while data[end] != 0xFF or data[end + 1] == 0 or 0xD0 <= data[end + 1] <= 0xD7:
            end += 1
        found.append((start, end))
        at = data.find(b"\xff\xda", end)
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_one_that_is_cut_off_is_refused_or_whole_or_said_to_be_blurred(way, end):
    data = encoded(PICTURE, "JPEG", **({"quality": 90} | WAYS[way]))
    whole = read(data)
    first = scans(data)[0][0]
    for place in (first + (len(data) - 2 - first) * twentieth // 20 for twentieth in range(19)):
        try:
            found = read(data[:place] + end)
        except UnprocessableImage:
            continue
        if not any("ends before all of it is told" in one for one in warnings_of(found)):
            assert np.array_equal(np.asarray(found), np.asarray(whole)), place


@pytest.mark.parametrize("way", [way for way in WAYS if way != "plain"])
def test_a_scan_or_an_interval_that_is_cut_off_is_refused_also_where_others_follow(way):
    data = encoded(PICTURE, "JPEG", **({"quality": 90} | WAYS[way]))
    tried = 0
    for start, end in scans(data):
        marks = [i for i in range(start, end) if data[i] == 0xFF and data[i + 1]]
        for first, last in zip([start, *(i + 2 for i in marks)], [*marks, end], strict=True):
            half = first + (last - first) // 2
            if last - first > 16 and data[half - 1] != 0xFF:
                with pytest.raises(UnprocessableImage, match="lacks pixels that its file says it has"):
                    read(data[:half] + data[last:])
                tried += 1
    assert tried


def test_one_that_ends_before_all_scans_are_told_is_shown_as_it_is_and_said_to_be_blurred():
    data = encoded(PICTURE, "JPEG", progressive=True)
    (_, first), *_, (_, last) = scans(data)
    assert data[last:] == b"\xff\xd9"
    assert warnings_of(read(data)) == ()
    assert warnings_of(read(data[:first] + b"\xff\xd9")) == (
        "the picture is a JPEG that ends before all of it is told, and is seen blurred",
    )
    with pytest.raises(UnprocessableImage, match="lacks scans that its file says it has"):
        read(data[:first])


@pytest.mark.parametrize("way", WAYS)
def test_what_goes_on_shows_nothing_of_it_where_nothing_is_missing(way):
    for quality in (30, 98):
        data = encoded(PICTURE, "JPEG", **({"quality": quality} | WAYS[way]))
        other = Whole(data).continued()
        assert len(other) > len(data)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(other))), np.asarray(Image.open(io.BytesIO(data))))


def test_only_what_may_lack_something_is_decoded_again():
    plain = encoded(PICTURE, "JPEG")
    restarts, progressive = (encoded(PICTURE, "JPEG", **WAYS[way]) for way in ("restarts", "progressive"))
    doubts = [Whole(data).is_in_doubt(Image.open(io.BytesIO(data))) for data in (plain, restarts, progressive)]
    assert doubts == [False, False, True]
    assert Whole(plain[:-2]).is_in_doubt(Image.open(io.BytesIO(plain)))


def test_what_follows_the_end_is_no_block():
    data = encoded(Image.new("RGB", (64, 64), (128, 128, 128)), "JPEG")
    assert np.array_equal(np.asarray(read(data + b"\xff\xda\0\x02trailer" * 9)), np.asarray(read(data)))


def test_the_first_of_several_pictures_counts():
    grey, other = Image.new("RGB", (64, 64), (128, 128, 128)), SLOPES.convert("RGB")
    assert read(encoded(grey, "MPO", save_all=True, append_images=[other])).getpixel((63, 63)) == (128, 128, 128)

"""BMP files against the letter of their format: runs, and masks of any width."""

import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import UnprocessableImage
from service.images import bmp, decode
from tests.conftest import encoded

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)
RED, GREEN, BLUE, CLEAR = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255), (0, 0, 0, 0)


def file(width, height, bits, compression, pixels, masks=(), palette=PALETTE, size=40) -> bytes:
    colours = b"".join(bytes([*colour[::-1], 0]) for colour in palette.tolist()) if bits <= 8 else b""
    more = b"".join(struct.pack("<I", mask) for mask in masks)
    after = more + (b"\0" * (size - 40 - len(more)) if size > 40 else b"") + colours
    start = 54 + len(after)
    used = len(palette) if bits <= 8 else 0
    head = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, len(pixels), 0, 0, used, 0)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + after + pixels


def seen(data: bytes, alpha: bool = True) -> np.ndarray:
    return np.asarray(decode(data, max_bytes=10**6, max_pixels=10**6, alpha=alpha).convert("RGBA" if alpha else "RGB"))


def test_runs_in_the_order_of_the_file_which_begins_below() -> None:
    runs = b"\3\0\0\0" + b"\0\3\0\1\2\0" + b"\0\0" + b"\2\1\1\2\0\1"
    pixels = seen(file(3, 3, 8, 1, runs))
    assert pixels.tolist() == [list(map(list, row)) for row in ((GREEN, GREEN, BLUE), (RED, GREEN, BLUE), (RED,) * 3)]
    four = b"\3\x01\0\0" + b"\0\3\x01\x20" + b"\0\0" + b"\3\x12\0\1"
    rows = ((GREEN, BLUE, GREEN), (RED, GREEN, BLUE), (RED, GREEN, RED))
    assert seen(file(3, 3, 4, 2, four)).tolist() == [list(map(list, row)) for row in rows]


@pytest.mark.parametrize(
    ("runs", "rows"),
    [
        (b"\0\1", ((CLEAR, CLEAR), (CLEAR, CLEAR))),  # nothing but the end
        (b"\1\0\0\1", ((CLEAR, CLEAR), (RED, CLEAR))),
        (b"\1\0\0\0\2\1\0\1", ((GREEN, GREEN), (RED, CLEAR))),
        (b"\0\2\1\1\1\2\0\1", ((CLEAR, BLUE), (CLEAR, CLEAR))),  # a step over some
        (b"\5\0\0\0\2\1\0\1", ((GREEN, GREEN), (RED, RED))),  # more than a row has
        (b"\2\0\0\0\2\1\0\0", ((GREEN, GREEN), (RED, RED))),  # no end, and all is there
        (b"\2\0\0\0\2\1", ((GREEN, GREEN), (RED, RED))),
    ],
)
def test_where_a_file_says_nothing_nothing_is_seen(runs: bytes, rows) -> None:
    assert seen(file(2, 2, 8, 1, runs)).tolist() == [list(map(list, row)) for row in rows]
    white = seen(file(2, 2, 8, 1, runs), alpha=False)
    assert all((white[i, j] == 255).all() for i in range(2) for j in range(2) if rows[i][j] == CLEAR)


@pytest.mark.parametrize("runs", [b"", b"\2", b"\2\0", b"\0\5\1\1", b"\0\2\1", b"\2\0\0\0\1\1"])
def test_a_file_that_is_cut_off_is_damaged(runs: bytes) -> None:
    with pytest.raises(UnprocessableImage):
        seen(file(2, 2, 8, 1, runs))


@given(st.binary(max_size=80))
def test_any_runs_are_a_picture_or_an_error(runs: bytes) -> None:
    said = bmp.header(file(5, 4, 8, 1, runs))
    assert said is not None
    assert said.run_length_coded
    with suppress(ValueError):
        assert bmp.run_lengths(file(5, 4, 8, 1, runs + b"\0\1" * 200), said).size == (5, 4)


@pytest.mark.parametrize(
    ("masks", "size", "value", "colour"),
    [
        ((0xF00, 0xF0, 0xF), 40, 0x0F84, (255, 136, 68, 255)),
        ((0xF00, 0xF0, 0xF, 0xF000), 56, 0x8F84, (255, 136, 68, 136)),
        ((0xF000, 0xF00, 0xF0, 0xF), 56, 0xF84F, (255, 136, 68, 255)),
        ((0xE000, 0x1C00, 0x0300), 40, 0xE000 | 0x0300, (255, 0, 255, 255)),
        ((0xF00, 0xF0, 0xF, 0xF000), 56, 0x0F84, (255, 136, 68, 255)),  # opaque: nobody has written the fourth
        ((0xF800, 0x7E0, 0x1F), 40, 0xF81F, (255, 0, 255, 255)),
        ((0x7C00, 0x3E0, 0x1F), 52, 0x7C10, (255, 0, 132, 255)),
    ],
)
def test_masks_of_16_bits(masks, size: int, value: int, colour) -> None:
    row = struct.pack("<HH", value, value)
    assert seen(file(2, 1, 16, 3, row, masks, size=size)).tolist() == [[list(colour)] * 2]


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
        (16, (0xF800, 0x7C0, 0x3E, 1)),
        (16, (0xF00, 0xF0, 0xF, 0xF000)),
        (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
        (32, (0xFF000000, 0xFF0000, 0xFF00, 0xFF)),
        (32, (0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000)),
        (32, (0xF000, 0xF00, 0xF0, 0xF)),
    ],
)
@pytest.mark.parametrize(("size", "compression"), [(56, 3), (108, 3), (124, 3), (40, 6), (108, 6)])
@pytest.mark.parametrize("start", [True, False])
def test_a_mask_of_opacity_counts_whatever_tells_it(bits: int, masks, size: int, compression: int, start: bool) -> None:
    kind = {16: "H", 32: "I"}[bits]
    red, blue = masks[0] | masks[3], masks[2]
    data = file(2, 2, bits, compression, struct.pack(f"<4{kind}", red, blue, blue, red), masks, size=size)
    data = data if start else data[:10] + bytes(4) + data[14:]  # right behind the header then
    clear_blue = [0, 0, 255, 0]
    assert seen(data).tolist() == [[clear_blue, list(RED)], [list(RED), clear_blue]]


@pytest.mark.parametrize(("width", "height"), [(5, 3), (3, 5), (1, 7), (7, 1)])
def test_pixels_are_unmasked_in_parts(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bmp, "_BLOCK", 4)
    values = np.arange(width * height, dtype="<u2").reshape(height, width)
    rows = b"".join(row.tobytes() + bytes(-2 * width % 4) for row in values)
    found = seen(file(width, height, 16, 3, rows, (0xF000, 0xF00, 0xFF)))
    assert np.array_equal(found[..., 2], values[::-1])


@pytest.mark.parametrize("size", [16, 20, 36, 44, 48, 60, 64])
def test_headers_of_os2_end_where_there_is_no_more_to_say(size: int) -> None:
    """What is left out is zero: no compression, and all colours that the bits can tell."""
    palette = np.resize(PALETTE, (256, 3))
    for bits, pixels, wanted in ((24, b"\x07\x08\x09\0", (9, 8, 7)), (8, b"\1\0\0\0", GREEN[:3])):
        data = file(1, 1, bits, 0, pixels, palette=palette)
        head = data[14:54].ljust(64, b"\0")[4:size]
        whole = data[:10] + struct.pack("<II", len(data) - 40 - len(pixels) + size, size) + head + data[54:]
        assert seen(whole, alpha=False).tolist() == [[list(wanted)]]


@pytest.mark.parametrize(
    ("bits", "compression", "pixels"), [(8, 0, b"\1\2\0\0"), (8, 1, b"\1\1\1\2\0\1"), (4, 0, b"\x12\0\0\0")]
)
@pytest.mark.parametrize("colours", [256, 257, 300, 70_000])
def test_more_colours_than_pixels_can_name(bits: int, compression: int, pixels: bytes, colours: int) -> None:
    palette = np.resize(PALETTE, (colours, 3))
    assert seen(file(2, 1, bits, compression, pixels, palette=palette)).tolist() == [[list(GREEN), list(BLUE)]]


@pytest.mark.parametrize(
    ("bits", "compression", "masks", "size"),
    [(2, 0, (), 40), (24, 4, (), 64), (0, 5, (), 40), (16, 3, (0, 0, 0), 40), (24, 3, (1, 2, 4), 40), (24, 0, (), 76)],
)
def test_a_form_that_is_not_read_is_not_called_damaged(bits: int, compression: int, masks, size: int) -> None:
    with pytest.raises(UnprocessableImage, match=r"a BMP of a form that is not read, by its .*; save it as PNG"):
        seen(file(1, 1, bits, compression, bytes(40), masks, size=size))


def test_masks_of_10_bits() -> None:
    masks = (0x3FF00000, 0xFFC00, 0x3FF)
    pixels = seen(file(1, 2, 32, 3, struct.pack("<II", 0x3FF00000, 512), masks))
    assert pixels[..., :3].tolist() == [[[0, 0, 128]], [[255, 0, 0]]]


def test_masks_that_are_none_and_missing_rows() -> None:
    for masks, pixels in (((0xF0F, 0xF0, 0), b"\0" * 4), ((0xF00, 0xF0, 0xF), b"\0")):
        with pytest.raises(UnprocessableImage):
            seen(file(1, 1, 16, 3, pixels, masks))


def test_what_pillow_writes_is_left_to_it(noise) -> None:
    from tests.conftest import photograph

    photo = photograph("chelsea").resize((17, 9))
    for image in (photo, photo.convert("L"), photo.convert("P"), photo.convert("1")):
        data = encoded(image, "BMP")
        assert not (said := bmp.header(data)) or not (said.run_length_coded or said.masked)
        assert np.array_equal(seen(data, alpha=False), np.asarray(image.convert("RGB")))

"""Clear pixels, as browsers show them: exact in 16 bits, and around a GIF's first frame."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from service.images import decode
from service.images.transparency import cleared, grey, note, without


def png(width, height, kind, rows, clear=b"", interlaced=0, depth=16) -> bytes:
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced))
    body = chunk(b"tRNS", clear) if clear else b""
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def seen(data: bytes, alpha: bool = True, window=None) -> list:
    return np.asarray(decode(data, max_bytes=10**6, max_pixels=10**6, alpha=alpha, window=window)).tolist()


def test_a_clear_grey_of_16_bits_is_one_of_them() -> None:
    data = png(3, 1, 0, b"\0" + struct.pack(">HHH", 0x1234, 0x1235, 0xFFFF), struct.pack(">H", 0x1234))
    assert seen(data) == [[[0, 0, 0, 0], [18, 18, 18, 255], [255, 255, 255, 255]]]
    assert seen(data, alpha=False) == [[[255] * 3, [18] * 3, [255] * 3]]
    assert seen(data, alpha=False, window=(0, 0x1235)) == [[[255] * 3, [255] * 3, [255] * 3]]
    assert seen(png(1, 1, 0, b"\0\x12\x34"), alpha=True) == [[[18] * 3]]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("high", [0, 1, 0x80])
def test_a_clear_grey_of_fewer_bits_is_told_in_as_many(depth: int, high: int) -> None:
    """PNG, 11.3.2.1: on the scale of the file; of its 16 bits, those above a pixel's depth are not looked at."""
    most = 2**depth - 1
    for clear in {0, 1, most // 2, most}:
        values = [0, 1, most // 2, most] + [0] * 4
        row = b"\0" + int("".join(f"{v:0{depth}b}" for v in values), 2).to_bytes(depth, "big")
        data = png(8, 1, 0, row, struct.pack(">H", high << depth | clear), depth=depth)
        expected = [[[255 if v == clear else round(v * 255 / most)] * 3 for v in values]]
        assert seen(data, alpha=False) == expected


def test_16_bits_a_channel_of_every_kind() -> None:
    """Grey and colours, with opacity and without: as bright as with 8 bits, and on white where they are clear."""
    white, half, clear = 0xFFFF, 0x8000, 0
    assert seen(png(2, 1, 0, b"\0" + struct.pack(">2H", half, white)), alpha=False) == [[[128] * 3, [255] * 3]]
    assert seen(png(1, 1, 2, b"\0" + struct.pack(">3H", white, half, 0)), alpha=False) == [[[255, 128, 0]]]
    grey = png(2, 1, 4, b"\0" + struct.pack(">4H", half, white, 0, clear))
    assert seen(grey, alpha=False) == [[[128] * 3, [255] * 3]]
    coloured = png(2, 1, 6, b"\0" + struct.pack(">8H", white, half, 0, white, 0, 0, 0, clear))
    assert seen(coloured, alpha=False) == [[[255, 128, 0], [255] * 3]]
    assert seen(coloured) == [[[255, 128, 0, 255], [0, 0, 0, 0]]]


@pytest.mark.parametrize("interlaced", [0, 1])
def test_a_clear_colour_is_found_whatever_the_order_of_pixels(interlaced: int) -> None:
    """Each differs from it in one of the six bytes, or is it."""
    clear = (0x1234, 0x5678, 0x9ABC)
    others = [
        clear,
        *(tuple(v ^ bit if i == at else v for i, v in enumerate(clear)) for at in range(3) for bit in (1, 256)),
    ]
    pixels = np.array(others + others[:1] * 2, np.uint16).reshape(3, 3, 3)
    if interlaced:  # of the seven passes the first, fourth and fifth to seventh have pixels of so small a picture
        parts = [
            pixels[y::dy, x::dx]
            for x, y, dx, dy in (
                (0, 0, 8, 8),
                (4, 0, 8, 8),
                (0, 4, 4, 8),
                (2, 0, 4, 4),
                (0, 2, 2, 4),
                (1, 0, 2, 2),
                (0, 1, 1, 2),
            )
        ]
    else:
        parts = [pixels]
    rows = b"".join(b"\0" + line.astype(">u2").tobytes() for part in parts if part.size for line in part)
    opacity = np.array(seen(png(3, 3, 2, rows, struct.pack(">HHH", *clear), interlaced)))[..., 3]
    assert opacity.tolist() == [[0, 255, 255], [255, 255, 255], [255, 0, 0]]


def test_a_clear_colour_of_16_bits_is_one_of_them() -> None:
    row = b"\0" + struct.pack(">HHHHHH", 0x1234, 0x5678, 0x9ABC, 0x1234, 0x5678, 0x9ABD)
    data = png(2, 1, 2, row, struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC))
    assert seen(data) == [[[0, 0, 0, 0], [0x12, 0x56, 0x9A, 255]]]
    assert seen(data, alpha=False)[0][0] == [255, 255, 255]
    assert seen(data, alpha=False)[0][1] == [0x12, 0x56, 0x9A]


def gif(screen, frame, clear=False, own=b"") -> bytes:
    """A GIF of one frame of colour 1, over a background of colour 0, (width, height) and (x, y, width, height).

    own: the frame's own four colours.
    """
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes([9, 9, 9, 200, 100, 50])
    control = b"\x21\xf9\x04\x01\0\0\1\0" if clear else b""
    codes, bits, out = [4] + [1, 4] * (frame[2] * frame[3]) + [5], 0, 0
    for code in codes:  # cleared after each, so that codes stay of three bits
        out |= code << bits
        bits += 3
    coded = out.to_bytes((bits + 7) // 8, "little")
    assert len(coded) < 256
    return (
        head
        + control
        + b"\x2c"
        + struct.pack("<HHHHB", *frame, 0x81 if own else 0)
        + own
        + b"\2"
        + bytes([len(coded)])
        + coded
        + b"\0;"
    )


@pytest.mark.parametrize("frame", [(1, 0, 2, 2), (0, 0, 4, 2), (0, 0, 4, 3)])
def test_around_a_first_frame_there_is_nothing(frame) -> None:
    x, y, width, height = frame
    expected = np.zeros((3, 4, 4), np.uint8)
    expected[y : y + height, x : x + width] = (200, 100, 50, 255)
    data = gif((4, 3), frame)
    shown = np.asarray(decode(data, max_bytes=10**6, max_pixels=10**6, alpha=True).convert("RGBA"))
    assert np.array_equal(shown, expected)
    white = np.asarray(decode(data, max_bytes=10**6, max_pixels=10**6))
    assert (white[expected[..., 3] == 0] == 255).all()


def test_a_frame_may_be_clear_itself() -> None:
    shown = np.asarray(decode(gif((4, 3), (1, 0, 2, 2), clear=True), max_bytes=10**6, max_pixels=10**6, alpha=True))
    assert not shown[..., 3].any()


@pytest.mark.parametrize("frame", [(1, 0, 2, 2), (0, 0, 4, 3)])
@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("colours", [(0, 1, 2, 3), (50, 60, 70, 80)])
def test_a_frame_has_its_own_greys(frame, clear: bool, colours) -> None:
    """Also those whose numbers they are, which Pillow takes for no colours at all."""
    x, y, width, height = frame
    own = bytes(grey for grey in colours for _ in range(3))
    expected = np.full((3, 4, 3), 255)
    expected[y : y + height, x : x + width] = 255 if clear else colours[1]
    assert np.array_equal(seen(gif((4, 3), frame, clear, own), alpha=False), expected)


def test_pictures_without_anything_clear_stay_as_they_are() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(buffer, "PNG")
    image = Image.open(io.BytesIO(buffer.getvalue()))
    note(image)
    image.load()
    assert cleared(image, buffer.getvalue()) is image
    assert grey(image) is None


def test_without_keeps_what_is_known_of_a_picture() -> None:
    image = Image.new("RGB", (2, 1), "red")
    image.info |= {"exif": b"x", "transparency": (1, 2, 3)}
    found = without(image, np.array([[True, False]]))
    assert np.asarray(found).tolist() == [[[0, 0, 0, 0], [255, 0, 0, 255]]]
    assert found.info == {"exif": b"x"}

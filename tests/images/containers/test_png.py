"""PNGs: rows that are said to be there and are not coded are not black, but missing."""

import io
import struct
import zlib

import pytest
from PIL import Image

from service.errors import UnprocessableImage
from service.images import decode
from tests.conftest import encoded

# Kinds of colours and their bits a channel; what Pillow does not write is written here.
KINDS = [
    (0, 1, 1),
    (0, 2, 1),
    (0, 8, 1),
    (0, 16, 1),
    (2, 8, 3),
    (2, 16, 3),
    (3, 4, 1),
    (4, 8, 2),
    (6, 8, 4),
    (6, 16, 4),
]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(size, kind, rows):
    """Return a PNG of a size whose rows are given as bytes, filters included."""
    colours, depth, _ = kind
    head = struct.pack(">IIBBBBB", *size, depth, colours, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(48))) if colours == 3 else b""
    pieces = zlib.compress(b"".join(rows))
    data = chunk(b"IDAT", pieces[:9]) + chunk(b"IDAT", pieces[9:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + data + chunk(b"IEND", b"")


def read(data):
    return decode(data, max_bytes=2**22, max_pixels=2**20)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 13, 64])
def test_rows_that_are_said_and_not_coded_are_told(kind, width):
    _, depth, channels = kind
    row = bytes(1 + -(-width * depth * channels // 8))
    whole = png((width, 9), kind, [row] * 9)
    assert read(whole).size == (width, 9)  # black, and all of it there
    for missing in (1, 2, 8):
        with pytest.raises(UnprocessableImage, match="damaged or cut off"):
            read(png((width, 9), kind, [row] * (9 - missing)))


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (5, 1), (9, 1), (1, 2), (1, 5), (3, 2), (8, 8), (9, 7), (33, 20)])
def test_an_interlaced_picture_has_the_rows_of_all_its_passes(size):
    """Which passes a pixel is in, the standard's figure of eight by eight says."""
    figure = ["16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777"]
    width, height = size
    lines = []
    for one in "1234567":
        for y in range(height):
            if count := sum(figure[y % 8][x % 8] == one for x in range(width)):
                lines.append(bytes(1 + 3 * count))
    lines = [line[:1] + bytes([7] * (len(line) - 1)) for line in lines]
    for missing in (0, 1):
        head = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 1)
        coded = chunk(b"IDAT", zlib.compress(b"".join(lines[: len(lines) - missing])))
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + coded + chunk(b"IEND", b"")
        if missing:
            with pytest.raises(UnprocessableImage, match="damaged or cut off"):
                read(data)
        else:
            assert read(data).size == size


def test_more_than_the_rows_that_are_said_does_not_matter():
    assert read(png((4, 2), (0, 8, 1), [bytes(5)] * 3)).size == (4, 2)


def test_a_film_of_pngs_has_its_first_one():
    frames = [Image.new("RGBA", (20, 10)), Image.new("RGBA", (20, 10), (9, 9, 9, 9))]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert read(data).size == (20, 10)

"""What decoders make room for is known, and counted, before they are asked for anything."""

import io
import itertools
import struct
import zlib

import pytest
from PIL import Image

from service.errors import TooLarge, UnprocessableImage
from service.images import FORMATS, declared, decode
from tests.conftest import encoded

SMALL = Image.new("RGB", (40, 30), (9, 99, 199))


def gif(screen: tuple[int, int], frame: tuple[int, int, int, int], before: bytes = b"", dispose: int = 2) -> bytes:
    """Return a GIF of one frame (x, y, w, h), after some other blocks."""
    control = b"!\xf9\x04" + bytes([dispose << 2, 0, 0, 0, 0])
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(6)
    return head + before + control + b"," + struct.pack("<HHHHB", *frame, 0) + b"\x02\x02\x44\x01\x00;"


def webp(size: tuple[int, int]) -> bytes:
    """Return an animated WebP of two pixels that names a canvas."""
    pixel, other = Image.new("RGBA", (1, 1), (1, 2, 3, 4)), Image.new("RGBA", (1, 1), (9, 2, 3, 255))
    data = bytearray(encoded(pixel, "WEBP", save_all=True, append_images=[other], lossless=True))
    assert data[12:16] == b"VP8X"
    data[24:30] = b"".join((side - 1).to_bytes(3, "little") for side in size)
    return bytes(data)


def tiff(
    size: tuple[int, int], tile: tuple[int, int], order: str = "<", large: bool = False, first: tuple[int, ...] = ()
) -> bytes:
    """Return a grey TIFF of one deflated tile; `first`: another width of the tile, named before or behind it."""
    coded = zlib.compress(bytes(tile[0] * tile[1]))
    tags = [(256, size[0]), (257, size[1]), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, one) for one in (*first, tile[0])] + [(323, tile[1]), (324, 0), (325, len(coded))]
    head = struct.pack(order + ("HHHQ" if large else "HI"), *((43, 8, 0, 16) if large else (42, 8)))
    entry, count = ("HHQQ", "Q") if large else ("HHII", "H")
    at = (
        2
        + len(head)
        + struct.calcsize(order + count)
        + len(tags) * struct.calcsize(order + entry)
        + (8 if large else 4)
    )
    body = struct.pack(order + count, len(tags))
    body += b"".join(struct.pack(order + entry, tag, 16 if large else 4, 1, value or at) for tag, value in tags)
    return (b"II" if order == "<" else b"MM") + head + body + bytes(8 if large else 4) + coded


def read(data: bytes, max_pixels: int = 2_000_000) -> tuple[Image.Image, list[int]]:
    """Return a picture, and the pixels that its decoding was held to take."""
    begun: list[int] = []
    return decode(data, max_bytes=2**22, max_pixels=max_pixels, begin=begun.append), begun


@pytest.mark.parametrize("kind", FORMATS)
def test_what_opening_a_file_takes_is_held_before_it_is_opened(kind, monkeypatch) -> None:
    """A canvas is what the decoders of animated formats make when they are opened; the others make none."""
    begun: list[int] = []
    opened = Image.open

    def open_(*args: object, **more: object) -> Image.Image:
        assert begun == [1200] * (kind in ("GIF", "WEBP"))
        return opened(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", open_)
    data = encoded(SMALL, kind)
    assert decode(data, max_bytes=2**20, max_pixels=1200, begin=begun.append).size == SMALL.size
    assert begun == [1200]
    assert declared.canvas(data) == (SMALL.size if kind in ("GIF", "WEBP") else None)
    assert declared.tile(data, 1200) == 0


@pytest.mark.parametrize(
    "data",
    [
        webp((5000, 5000)),
        gif((65_535, 65_535), (0, 0, 65_535, 65_535)),
        gif((10, 10), (0, 0, 65_535, 65_535)),
        gif((10, 10), (65_000, 0, 10, 40)),
        encoded(Image.new("RGB", (1500, 1500)), "WEBP", lossless=True),
        encoded(Image.new("RGB", (1500, 1500)), "WEBP"),
    ],
    ids=["animated", "screen", "frame", "place", "lossless", "lossy"],
)
def test_a_canvas_beyond_the_limit_is_refused_unopened(data, monkeypatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(Image, "open", never)
    with pytest.raises(TooLarge, match="pixels and at most 2,000,000 are accepted"):
        read(data)


BLOCKS = (
    b"!\xfe\x03abc\x00",  # a comment
    b"!\xfe\x00",
    b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00",
    b"!\xff\x00\x05a,b,c\x00",  # an extension whose first block is empty, and does not end it
    b"!\x01\x02ab\x01c\x00",
    b"\x07",  # which belongs to nothing
)


@pytest.mark.parametrize("before", [b"".join(two) for two in itertools.product(BLOCKS, repeat=2)], ids=range(36))
def test_a_gif_is_read_as_its_decoder_reads_it(before) -> None:
    """A file may be made so that another way to read it finds another, smaller frame."""
    data = gif((10, 20), (3, 4, 50, 60), before)
    with Image.open(io.BytesIO(data)) as image:
        assert declared.canvas(data) == image.size == (53, 64)


def test_a_gif_of_very_many_blocks_is_refused() -> None:
    with pytest.raises(UnprocessableImage, match="very many small parts"):
        read(gif((1, 1), (0, 0, 1, 1), b"!\xfe\x00" * 20_000))


@pytest.mark.parametrize(
    ("label", "block", "most"),
    [
        (b"\xfe", b"\1a", 9_990),
        (b"\1", b"\1a", 9_990),
        (b"\xff", b"\xff" + bytes(255), 9_990),
        (b"\xfe", b"\xff" + bytes(255), 2050),
    ],
    ids=["comment", "text", "long", "long comment"],
)
def test_blocks_within_one_extension_are_counted_too(label, block, most) -> None:
    """Of a long comment there are fewer: Pillow copies all that it has of it for each."""
    assert declared.canvas(gif((5, 4), (0, 0, 5, 4), b"!" + label + block * most + b"\0")) == (5, 4)
    with pytest.raises(declared.Costly, match="very many small parts, or of a very long comment"):
        declared.canvas(gif((5, 4), (0, 0, 5, 4), b"!" + label + block * (most + 20) + b"\0"))


@pytest.mark.parametrize(("order", "large"), [("<", False), (">", False), ("<", True)])
def test_a_tile_much_larger_than_its_picture_is_refused(order, large) -> None:
    for size, side in (((64, 64), 1040), ((600, 600), 1216), ((1100, 1100), 1504)):
        with pytest.raises(UnprocessableImage, match=rf"its tiles have {side} x {side} pixels, and the picture has"):
            read(tiff(size, (side, side), order, large))


@pytest.mark.parametrize("names", [((16,), 2048), ((2048,), 64)])
def test_of_two_widths_of_a_tile_the_larger_one_counts(names) -> None:
    first, width = names
    with pytest.raises(UnprocessableImage, match="its tiles have 2048 x 1024"):
        read(tiff((64, 64), (width, 1024), first=first))


@pytest.mark.parametrize("side", [64, 256, 1024])
def test_the_tiles_that_programs_write_are_taken_and_held(side) -> None:
    picture, begun = read(tiff((64, 64), (side, side)))
    assert picture.size == (64, 64)
    assert begun == [side * side]


def test_a_picture_at_the_limit_may_be_one_tile() -> None:
    picture, begun = read(tiff((1410, 1410), (1424, 1424)))
    assert picture.size == (1410, 1410)
    assert begun == [1424 * 1424]  # whose sides are multiples of 16


def test_a_large_tiff_of_very_many_parts_is_refused_before_they_are_read() -> None:
    body = struct.pack("<QQHHQQ", 16, 1, 273, 16, 4_000_000, 60)
    with pytest.raises(UnprocessableImage, match="very many small parts"):
        read(b"II+\0\x08\0\0\0" + body + bytes(1000))


def test_a_large_tiff_of_the_other_order_is_read_by_neither_way_to_take_it() -> None:
    """Pillow takes its head for that of a usual one, where it says another place."""
    with pytest.raises(UnprocessableImage, match="damaged"):
        read(tiff((64, 64), (64, 64), ">", large=True))

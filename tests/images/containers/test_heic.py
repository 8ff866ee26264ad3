"""HEIC: what it codes is told before any of it is decoded, and what it lacks is not made up."""

import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.errors import TooLarge, UnprocessableImage, UnsupportedMediaType
from service.images import decode
from service.images.containers import heic
from service.images.containers.boxes import Coded, contradiction
from service.images.containers.heic import begins, coded, continued
from service.images.declared import Costly
from service.images.decoding import formats
from tests.images.files import HEIC


def read(data: bytes, **more: object) -> Image.Image:
    pytest.importorskip("pi_heif")
    return decode(data, **({"max_bytes": 2**22, "max_pixels": 2**20} | more))  # type: ignore[arg-type]


def saying(width: int, height: int) -> bytes:
    at = HEIC.index(b"ispe") + 8
    return HEIC[:at] + struct.pack(">II", width, height) + HEIC[at + 8 :]


def shorter(size: int) -> bytes:
    """Return the picture whose last piece has fewer bytes, as its container says, too."""
    start = HEIC.index(b"mdat") + 4
    (whole,) = struct.unpack_from(">I", HEIC, start)
    assert start + 4 + whole == len(HEIC)
    listed = HEIC.index(struct.pack(">I", 4 + whole))  # of the item, in the list of places
    head = HEIC[:listed] + struct.pack(">I", 4 + size) + HEIC[listed + 4 : start]
    return head + struct.pack(">I", size) + HEIC[start + 4 :][:size].ljust(whole, b"\0")


def box(kind: bytes, *inner: bytes) -> bytes:
    inside = b"".join(inner)
    return struct.pack(">I4s", 8 + len(inside), kind) + inside


PIECE = HEIC[HEIC.index(b"mdat") + 4 :]


def grid(*tiles: bytes) -> bytes:
    """Return a picture of 64 x 64 tiles beside one another."""
    at = HEIC.index(b"hvcC") - 4
    configuration = HEIC[at : at + int.from_bytes(HEIC[at : at + 4], "big")]
    size, ids = (64 * len(tiles), 64), range(2, 2 + len(tiles))
    described = struct.pack(">BBBBHH", 0, 0, 0, len(tiles) - 1, *size)
    entries = [
        box(b"infe", struct.pack(">IHH4sx", 2 << 24 | (i > 1), i, 0, kind))
        for i, kind in [(1, b"grid"), *((i, b"hvc1") for i in ids)]
    ]
    sizes = [box(b"ispe", struct.pack(">III", 0, *one)) for one in ((64, 64), size)]
    has = struct.pack(">IIHBB", 0, 1 + len(tiles), 1, 1, 3) + b"".join(struct.pack(">HBBB", i, 2, 0x81, 2) for i in ids)
    made_of = struct.pack(f">HH{len(tiles)}H", 1, len(tiles), *ids)

    def head(start: int) -> bytes:
        starts = np.cumsum([start, *map(len, tiles)]).tolist()
        places = [
            (1, 1, 0, 1, 0, len(described)),
            *((i, 0, 0, 1, a, len(one)) for i, a, one in zip(ids, starts, tiles, strict=False)),
        ]
        listed = struct.pack(">BBHHH", 1, 0, 0, 0x4400, len(places)) + b"".join(
            struct.pack(">HHHHII", *one) for one in places
        )
        boxes = [
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", struct.pack(">IH", 0, 1)),
            box(b"iloc", listed),
            box(b"iinf", struct.pack(">IH", 0, len(entries)), *entries),
            box(b"iref", bytes(4), box(b"dimg", made_of)),
            box(b"iprp", box(b"ipco", configuration, *sizes), box(b"ipma", has)),
            box(b"idat", described),
        ]
        return box(b"ftyp", b"heic", bytes(4), b"mif1heic") + box(b"meta", bytes(4), *boxes)

    return head(len(head(0)) + 8) + box(b"mdat", *tiles)


def test_a_picture_is_shown() -> None:
    found = read(HEIC)
    assert "HEIF" in formats()
    assert found.size == (64, 48)
    assert found.getpixel((8, 24)) == pytest.approx((255, 0, 0), abs=12)
    assert found.getpixel((56, 24)) == pytest.approx((0, 0, 255), abs=12)


def test_what_is_coded_is_told() -> None:
    assert begins(HEIC)
    assert coded(HEIC) == [Coded((64, 64), (64, 64))]
    assert contradiction(coded(HEIC)) is None
    assert not begins(b"\0\0\0\x18ftypavif")


@pytest.mark.parametrize("said", [(65, 64), (64, 65), (640, 640)])
def test_a_lie_is_refused_undecoded_and_both_sizes_told(said) -> None:
    begun: list[int] = []
    with pytest.raises(UnprocessableImage, match=f"says {said[0]} x {said[1]} pixels, and 64 x 64 are coded in it"):
        read(saying(*said), begin=begun.append)
    assert not begun


def test_the_limit_counts_what_is_coded_where_more_is_coded_than_said() -> None:
    with pytest.raises(TooLarge, match="64 x 64 = 4,096 pixels and at most 4,095"):
        read(saying(65, 64), max_pixels=4095)
    begun: list[int] = []
    assert read(HEIC, max_pixels=64 * 48, begin=begun.append).size == (64, 48)
    assert set(begun) == {64 * 64}


@pytest.mark.parametrize("tenth", range(1, 10))
def test_one_that_is_cut_off_is_refused(tenth) -> None:
    with pytest.raises((UnprocessableImage, UnsupportedMediaType)):
        read(HEIC[: len(HEIC) * tenth // 10])
    size = len(HEIC) - HEIC.index(b"mdat") - 8
    cut = shorter(size * tenth // 10)
    if tenth < 8:
        with pytest.raises(UnprocessableImage, match="lacks pixels that its file says it has"):
            read(cut)
    else:  # its encoder ends with bytes that say nothing
        assert np.array_equal(np.asarray(read(cut)), np.asarray(read(HEIC)))
    assert np.array_equal(np.asarray(read(shorter(size))), np.asarray(read(HEIC)))


def test_tiles_are_shown_and_counted() -> None:
    assert coded(grid(PIECE, PIECE)) == [Coded((128, 64), (128, 64)), *[Coded((64, 64), (64, 64))] * 2]
    found = read(grid(PIECE, PIECE))
    assert found.size == (128, 64)
    for x, colour in ((8, (255, 0, 0)), (56, (0, 0, 255)), (72, (255, 0, 0)), (120, (0, 0, 255))):
        assert found.getpixel((x, 30)) == pytest.approx(colour, abs=12)


@pytest.mark.parametrize(
    ("tile", "lacks"),
    [
        (struct.pack(">I", 50) + PIECE[4:54], "pixels"),
        (b"", "(pixels|tiles)"),
        (struct.pack(">I", 40) + bytes(40), "tiles"),
        (struct.pack(">I", 2) + b"\x4e\x01", "tiles"),  # words about a picture, and none
    ],
)
def test_a_tile_that_cannot_be_read_is_told(tile, lacks) -> None:
    """Where there are others, its decoder leaves it green."""
    for tiles in ((PIECE, tile), (tile, PIECE)):
        with pytest.raises(UnprocessableImage, match=f"lacks {lacks} that its file says it has"):
            read(grid(*tiles))


def test_a_green_tile_is_no_missing_one(monkeypatch) -> None:
    monkeypatch.setattr(heic, "may_lack_tiles", lambda data, image: True)
    assert read(grid(PIECE, PIECE)).size == (128, 64)


def test_each_picture_stands_alone() -> None:
    alone = list(heic.alone(grid(PIECE, PIECE)))
    assert [coded(one) for one in alone] == [[Coded((64, 64), (64, 64))]] * 2
    assert not heic.may_lack_tiles(alone[0], Image.new("RGB", (64, 64)))
    assert heic.may_lack_tiles(grid(PIECE), Image.new("L", (64, 64)))
    assert not heic.may_lack_tiles(grid(PIECE), Image.new("RGB", (64, 64)))


def test_what_goes_on_has_all_that_it_had() -> None:
    other = continued(HEIC)
    assert other is not None
    assert coded(other) == coded(HEIC)
    piece = HEIC[HEIC.index(b"mdat") + 8 :]
    at = other.index(piece, len(HEIC))
    assert struct.unpack_from(">I", other, at - 4) == (len(other) - at,)
    assert len(other) - at > len(piece) + 4000


def bits(*fields: tuple[int, int]) -> bytes:
    """Return numbers, each of so many bits, as bytes, with a three wherever two noughts would end a piece."""
    text = "".join(f"{value:0{count}b}" for value, count in fields if count)
    raw = int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")
    found = bytearray()
    for byte in raw:
        if byte <= 3 and found[-2:] == b"\0\0":
            found.append(3)
        found.append(byte)
    return bytes(found)


def numbers(*values: int) -> list[tuple[int, int]]:
    """Return whole numbers of as many bits as they need (H.265, 9.2)."""
    return [(value + 1, 2 * (value + 1).bit_length() - 1) for value in values]


def with_set(header: bytes) -> bytes:
    """Return the picture with another sequence parameter set in its configuration."""
    at = HEIC.index(b"hvcC") + 4
    end = at - 8 + int.from_bytes(HEIC[at - 8 : at - 4], "big")
    one = b"\x42\x01" + header
    more = HEIC[at : at + 22] + b"\x01\xa1\0\x01" + struct.pack(">H", len(one)) + one
    old = end - at
    data = HEIC[: at - 8] + struct.pack(">I4s", 8 + len(more), b"hvcC") + more + HEIC[end:]
    for name in (b"meta", b"iprp", b"ipco"):
        place = data.index(name) - 4
        (size,) = struct.unpack_from(">I", data, place)
        data = data[:place] + struct.pack(">I", size + len(more) - old) + data[place + 4 :]
    return data


@given(st.data())
def test_a_sequences_header_is_read_as_it_is_written(data: st.DataObject) -> None:
    """H.265, 7.3.2.2 and 7.3.3, written out as they stand there."""
    flag = st.integers(0, 1)
    layers, width, height = (
        data.draw(st.integers(0, 6)),
        data.draw(st.integers(1, 70_000)),
        data.draw(st.integers(1, 99)),
    )
    fields = [(0, 4), (layers, 3), (1, 1), (1, 88), (90, 8)]
    has = [(data.draw(flag), data.draw(flag)) for _ in range(layers)]
    fields += [one for pair in has for one in ((pair[0], 1), (pair[1], 1))]
    fields += [(0, 2)] * (8 - layers) if layers else []
    for profile, level in has:
        fields += [(5, 88)] * profile + [(9, 8)] * level
    chroma = data.draw(st.integers(0, 3))
    fields += numbers(data.draw(st.integers(0, 15)), chroma) + [(0, 1)] * (chroma == 3) + numbers(width, height)
    (found,) = coded(with_set(bits(*fields, (1, 1), (0, 64))))
    assert found.size == max([(width, height), (0, 0)], key=lambda size: size[0] * size[1])


@pytest.mark.parametrize(
    ("kind", "data", "size"),
    [
        (b"grid", struct.pack(">BBBBHH", 0, 0, 1, 1, 900, 700), (900, 700)),
        (b"grid", struct.pack(">BBBBII", 0, 1, 1, 1, 90_000, 70_000), (90_000, 70_000)),
        (b"iovl", struct.pack(">BBHHHHHHhh", 0, 0, 0, 0, 0, 0, 800, 600, 0, 0), (800, 600)),
    ],
)
def test_the_canvas_of_what_is_made_of_others_counts(kind, data, size) -> None:
    item = box(b"infe", struct.pack(">IHH4s", 2 << 24, 1, 0, kind), b"\0")
    listed = box(b"iinf", struct.pack(">IH", 0, 1), item)
    places = box(b"iloc", struct.pack(">BBHHH", 1, 0, 0, 0x4400, 1), struct.pack(">HHHHII", 1, 1, 0, 1, 0, len(data)))
    said = box(
        b"iprp",
        box(b"ipco", box(b"ispe", struct.pack(">III", 0, 8, 8))),
        box(b"ipma", struct.pack(">IIHBB", 0, 1, 1, 1, 1)),
    )
    file = box(b"meta", bytes(4), listed, places, said, box(b"idat", data))
    assert coded(file) == [Coded(size, (8, 8))]
    assert (
        contradiction(coded(file)) == f"the picture's file says 8 x 8 pixels, and {size[0]} x {size[1]} are coded in it"
    )


@given(st.data())
def test_damage_raises_only_what_decoding_knows(data: st.DataObject) -> None:
    damaged = bytearray(HEIC)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(8, len(damaged)))]
    with suppress(Costly, struct.error, IndexError):
        coded(bytes(damaged))
        continued(bytes(damaged))

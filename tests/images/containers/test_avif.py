"""What an AVIF codes is told before any of it is decoded, whatever its container says."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import AvifImagePlugin, Image

from service.errors import ServiceError, TooLarge, UnprocessableImage
from service.images import decode
from service.images.containers.avif import coded
from service.images.containers.boxes import Coded, contradiction
from service.images.declared import Costly
from tests.conftest import encoded

SIZE = (67, 45)
MODES = {"RGB": (9, 99, 199), "RGBA": (9, 99, 199, 100), "L": 77}


def avif(mode="RGB", size=SIZE, frames=1, **options):
    first, *others = (Image.new(mode, size, MODES[mode]).rotate(i) for i in range(frames))
    film = {"save_all": True, "append_images": others} if others else {}
    return encoded(first, "AVIF", speed=10, **film, **options)


def saying(data, size):
    """Have a file say another size of its still pictures."""
    data, at = bytearray(data), -1
    for _ in range(data.count(b"ispe")):
        at = data.index(b"ispe", at + 1)
        data[at + 8 : at + 16] = struct.pack(">II", *size)
    return bytes(data)


def saying_of_film(data, size):
    """Have each track of a film say another size."""
    data, at = bytearray(data), -1
    for _ in range(data.count(b"tkhd")):
        at = data.index(b"tkhd", at + 1)
        end = at - 4 + int.from_bytes(data[at - 4 : at], "big")
        data[end - 8 : end] = struct.pack(">II", *(side << 16 for side in size))
    return bytes(data)


def read(data, max_pixels=10_000):
    """Return what a file is refused with, and how many pixels were begun."""
    begun = []
    with pytest.raises(ServiceError) as refused:
        decode(data, max_bytes=2**22, max_pixels=max_pixels, begin=begun.append)
    return refused.value, begun


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("size", [SIZE, (1, 1), (200, 3)])
def test_what_is_said_and_coded_agrees_in_what_is_written(mode, frames, size):
    data = avif(mode, size, frames)
    found = coded(data)
    assert len(found) == (1 + (mode == "RGBA")) * (1 + (frames > 1))  # colours and alpha; a still picture and a film
    assert found == [Coded(size, size)] * len(found)
    assert decode(data, max_bytes=2**22, max_pixels=size[0] * size[1]).size == size


@pytest.mark.parametrize("said", [(8, 8), (90, 90), (SIZE[1], SIZE[0]), (0, 0)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_lie_is_refused_undecoded_and_both_sizes_told(said, mode, monkeypatch):
    monkeypatch.setattr(AvifImagePlugin.AvifImageFile, "load", lambda self: pytest.fail("it was decoded"))
    error, begun = read(saying(avif(mode), said))
    assert isinstance(error, UnprocessableImage) or said == (0, 0)  # which its decoder does not open
    assert not begun
    if said != (0, 0):
        assert error.detail == (
            f"the picture's file says {said[0]} x {said[1]} pixels, and 67 x 45 are coded in it; save the picture again"
        )


def test_colours_and_alpha_each_have_their_size():
    assert coded(saying(avif("RGBA"), (8, 8))) == [Coded(SIZE, (8, 8))] * 2


def test_what_is_coded_counts_where_it_is_more(monkeypatch):
    """Its decoder makes room for all of it, to scale it down to what the container says."""
    monkeypatch.setattr(AvifImagePlugin.AvifImageFile, "load", lambda self: pytest.fail("it was decoded"))
    error, begun = read(saying(avif(size=(300, 200)), (8, 8)))
    assert isinstance(error, TooLarge)
    assert "300 x 200 = 60,000 pixels" in error.detail
    assert not begun


def test_a_film_is_held_to_what_its_tracks_say():
    assert "says 8 x 8 pixels, and 67 x 45" in read(saying_of_film(avif(frames=3), (8, 8)))[0].detail


@pytest.mark.parametrize("layers", [b"a1op", b"lsel"])
def test_a_picture_in_layers_may_have_several_sizes(layers):
    data = saying(avif(), (8, 8)).replace(b"pixi", layers)
    assert coded(data) == [Coded(SIZE, None)]
    assert contradiction(coded(data)) is None


@pytest.mark.parametrize(
    ("own", "said", "fits"),
    [
        ((64, 48), (64, 48), True),
        ((64, 48), (63, 47), True),
        ((64, 48), (60, 45), True),
        ((64, 64), (60, 45), True),
        ((64, 45), (60, 45), False),  # one side filled up, and the other not
        ((64, 48), (65, 48), False),
        ((128, 48), (60, 45), False),
    ],
)
def test_sides_may_be_filled_up_to_whole_blocks(own, said, fits):
    assert Coded(own, said).is_of(said) is fits


def test_what_tells_no_size_is_refused():
    data = avif()
    at = data.index(b"mdat") + 4
    assert data[at] >> 3 & 15 in (1, 2)  # begins with a sequence's header, or with what marks a picture's beginning
    with pytest.raises(Costly, match="tells no size"):
        coded(data[:at] + bytes([0x7A, 0]) * ((len(data) - at) // 2))  # padding
    assert contradiction([]) is not None


def box(kind, *inner):
    inside = b"".join(inner)
    return struct.pack(">I4s", 8 + len(inside), kind) + inside


@pytest.mark.parametrize("kind", [b"iloc", b"iinf", b"idat"])
def test_what_is_said_twice_is_refused(kind):
    once = box(kind, bytes(16))
    with pytest.raises(Costly, match="twice"):
        coded(box(b"meta", bytes(4), once, once))


def places(extents, length):
    """Return a list of one picture's places, each all of the file."""
    body = struct.pack(">IHHHHH", 0, 0x4400, 1, 1, 0, extents)
    return box(b"iloc", body, struct.pack(">II", 0, length) * extents)


@pytest.mark.parametrize(
    "inner",
    [
        [places(20_000, 1)],
        [places(5_000, 0)],  # which would be read together: 200 megabytes of 40 kilobytes
        [box(b"free")] * 20_000,
    ],
    ids=["pieces", "bytes", "boxes"],
)
def test_what_is_made_of_very_many_parts_is_refused(inner):
    item = box(b"infe", struct.pack(">IHH4s", 2 << 24, 1, 0, b"av01"))
    listed = box(b"iinf", struct.pack(">IH", 0, 1), item)
    with pytest.raises(Costly, match="very many small parts"):
        coded(box(b"meta", bytes(4), listed, *inner))


def bits(*fields):
    """Return numbers, each of so many bits, as bytes."""
    text = "".join(f"{value:0{count}b}" if count else "" for value, count in fields)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


def film(header):
    """Return a file of one film, of one piece: a sequence's header."""
    piece = bytes([0x0A, len(header) & 127 | 128, len(header) >> 7]) + header
    head = [box(b"tkhd", bytes(84)), box(b"stsd", bytes(8), box(b"av01"))]
    table = [box(b"stsz", struct.pack(">III", 0, len(piece), 1)), box(b"stco", struct.pack(">III", 0, 1, 8))]
    return box(b"mdat", piece) + box(b"moov", box(b"trak", *head, *table))


@given(st.data())
def test_a_sequences_header_is_read_as_it_is_written(data):
    """AV1, 5.5.1, written out as it stands there."""
    flag = st.integers(0, 1)
    wide, high = data.draw(st.integers(1, 16)), data.draw(st.integers(1, 16))
    width, height = data.draw(st.integers(1, 2**wide)), data.draw(st.integers(1, 2**high))
    reduced = data.draw(flag)
    fields = [(0, 3), (reduced, 1), (reduced, 1)]
    if reduced:
        fields += [(data.draw(st.integers(0, 31)), 5)]
    else:
        timing, modelled, shown, delay = (data.draw(one) for one in (flag, flag, flag, st.integers(0, 31)))
        fields += [(timing, 1)]
        if timing:
            equal, ticks = data.draw(flag), data.draw(st.integers(0, 100))
            fields += [(7, 32), (9, 32), (equal, 1)]
            zeros = (ticks + 1).bit_length() - 1
            fields += [(0, zeros), (ticks + 1, zeros + 1)] if equal else []
            fields += [(modelled, 1)]
            fields += [(delay, 5), (3, 32), (4, 5), (5, 5)] if modelled else []
        fields += [(shown, 1), (points := data.draw(st.sampled_from([0, 1, 31])), 5)]
        level, has, first = data.draw(st.integers(0, 31)), data.draw(flag), data.draw(flag)
        for _ in range(points + 1):
            fields += [(0, 12), (level, 5)] + [(1, 1)] * (level > 7)
            if timing and modelled:
                fields += [(has, 1)] + [(1, delay + 1), (1, delay + 1), (1, 1)] * has
            if shown:
                fields += [(first, 1)] + [(9, 4)] * first
    fields += [(wide - 1, 4), (high - 1, 4), (width - 1, wide), (height - 1, high)]
    (found,) = coded(film(bits(*fields)))
    # A picture within a sequence may have any size of so many bits.
    most = [side if reduced or n <= side.bit_length() else 2**n for side, n in ((width, wide), (height, high))]
    assert found == Coded(tuple(most), (0, 0))


def test_sound_beside_a_film_is_no_picture():
    data = film(bits((0, 3), (1, 1), (1, 1), (0, 5), (3, 4), (3, 4), (9, 4), (4, 4)))
    assert coded(data) == [Coded((10, 5), (0, 0))]
    assert coded(data.replace(b"av01", b"Opus")) == []


@given(st.data())
def test_damage_raises_only_what_decoding_knows(data):
    damaged = bytearray(avif("RGBA", (8, 8)))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(400, len(damaged) - 1)))] = data.draw(st.integers(0, 255))
    with suppress(Costly, struct.error, IndexError):
        coded(bytes(damaged[: data.draw(st.integers(8, len(damaged)))]))

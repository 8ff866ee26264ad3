"""Boxes, and what stands in lists of them."""

import struct

import pytest

from service.images.containers.boxes import Bits, Coded, Parts, items, moved
from service.images.declared import Costly


def box(kind, *inner):
    inside = b"".join(inner)
    return struct.pack(">I4s", 8 + len(inside), kind) + inside


def file(sizes, base, pieces, version=1, method=0):
    """Return a file of one item in several pieces, whose places are told in numbers of so many bytes."""
    offsets, lengths, bases = sizes
    listed = box(b"iinf", struct.pack(">IH", 0, 1), box(b"infe", struct.pack(">IHH4s", 2 << 24, 7, 0, b"hvc1")))

    def told(start):
        head = struct.pack(">BBHHHH", version, 0, 0, offsets << 12 | lengths << 8 | bases << 4, 1, 7)
        head += struct.pack(">H", method) if version else b""
        body, at = struct.pack(">H", 0) + base.to_bytes(bases, "big") + struct.pack(">H", len(pieces)), start - base
        for piece in pieces:
            body += at.to_bytes(offsets, "big") + len(piece).to_bytes(lengths, "big")
            at += len(piece)
        return box(b"meta", bytes(4), listed, box(b"iloc", head + body), box(b"idat", b"within"))

    return told(0 if method else len(told(base)) + 8) + box(b"mdat", *pieces)


def only(data):
    parts = Parts(data)
    (found,) = [
        one
        for kind, start, end in parts.boxes(0, len(data))
        if kind == b"meta"
        for one in items(parts, start + 4, end, (b"hvc1",))
    ]
    return found


@pytest.mark.parametrize("sizes", [(4, 4, 0), (8, 8, 4), (4, 8, 4), (2, 2, 8)])
@pytest.mark.parametrize("pieces", [[b"abc"], [b"abc", b"de", b"f"]])
@pytest.mark.parametrize("version", [0, 1])
def test_an_item_is_what_its_pieces_are_and_may_be_moved(sizes, pieces, version):
    data = file(sizes, 3 if sizes[2] else 0, pieces, version)
    assert only(data).data == b"".join(pieces)
    other = moved(data, {7: b"something longer"})
    assert other.startswith(data[:10])
    assert only(other).data == b"something longer"
    assert only(other).kind == b"hvc1"
    assert moved(data, {8: b"of another"}).removesuffix(box(b"mdat")) == data


def test_what_is_within_the_list_is_moved_out_of_it():
    data = file((4, 4, 0), 0, [b"with"], method=1)
    assert only(data).data == b"with"
    assert only(moved(data, {7: b"without"})).data == b"without"


def test_where_there_is_no_room_to_say_where_it_is_nothing_is_moved():
    assert moved(file((1, 4, 0), 0, [b"abc"]), {7: b"abc"}) is not None
    assert moved(file((1, 4, 0), 0, [b"abc" * 60]), {7: b"abc"}) is None  # beyond 255 bytes
    assert moved(file((4, 1, 0), 0, [b"abc"]), {7: bytes(300)}) is None


def test_bits_end_where_they_end():
    bits = Bits(b"\xa5")
    assert [bits(1), bits(3), bits(4)] == [1, 2, 5]
    with pytest.raises(Costly, match="cut off"):
        bits(1)


def test_parts_are_counted():
    with pytest.raises(Costly, match="very many small parts"):
        list(Parts(b"").boxes(0, 0)) or Parts(b"").count(10_001)


def test_sides_may_be_filled_up():
    assert Coded((64, 48), (60, 45)).is_of((60, 45))

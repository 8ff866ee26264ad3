"""How many pixels an AVIF codes, whatever its container says: its decoder makes room for all that are coded.

The container tells a size of each picture in it (`ispe`, ISO/IEC 23008-12, 6.5.3), and each coded picture tells its own
(AV1, 5.5.1). Where they differ, decoders scale the one to the other in silence.
"""

import struct
from collections.abc import Iterator

from service.images.containers.boxes import Bits, Coded, Parts, items
from service.images.declared import Costly

_PICTURES = 100_000  # of one film
_OF_FILMS = (b"stsd", b"stsz", b"stco", b"co64", b"tkhd")
_SEQUENCE = 1  # kind of the piece that tells a size
_HEADER = 1024  # bytes that it has at most


def begins(data: bytes) -> bool:
    """Whether bytes are those of a file that an AVIF's decoder may read."""
    return data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"mif1", b"msf1")


def coded(data: bytes) -> list[Coded]:
    """Return the coded pictures of an AVIF: all still ones, and the first one of each film.

    Raises:
        Costly: one of them tells no size, or there are very many.
        struct.error, IndexError: it is damaged.
    """
    parts = Parts(data)
    found: list[Coded] = []
    for kind, start, end in parts.boxes(0, len(data)):
        if kind == b"meta":
            stills = items(parts, start + 4, end, (b"av01",))
            found += [Coded(_size(parts, one.data), one.said) for one in stills]
        elif kind == b"trak":
            found += _films(parts, start, end)
    return found


def _size(parts: Parts, coded: bytes) -> tuple[int, int]:
    """Return the largest size that a coded picture tells.

    Raises:
        Costly: it tells none.
    """
    at, found = 0, []
    while at < len(coded):
        parts.count()
        head = coded[at]
        at += 2 if head & 4 else 1
        length, shift = 0, 0
        if head & 2:
            while True:
                byte, at = coded[at], at + 1
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128 or shift > 56:
                    break
        else:
            length = len(coded) - at
        if head >> 3 & 15 == _SEQUENCE:
            found.append(_sequence(coded[at : at + min(length, _HEADER)]))
        at += length
    if not found:
        raise Costly("its coded picture tells no size")
    return max(found, key=lambda size: size[0] * size[1])


def _films(parts: Parts, start: int, end: int) -> Iterator[Coded]:
    """Give the first picture of a track that is a film; others are sound, or words.

    Raises:
        Costly: it has very many pictures, for each of which the decoder makes a note before it decodes any.
    """
    data = parts.data
    inner = {kind: data[first:last] for kind, first, last in parts.once(_OF_FILMS, start, end)}
    if b"av01" not in inner.get(b"stsd", b""):
        return
    sizes = inner.get(b"stsz", b"")
    if int.from_bytes(sizes[8:12], "big") > _PICTURES:
        raise Costly("it is made of very many pictures")
    length = int.from_bytes(sizes[4:8], "big") or int.from_bytes(sizes[12:16], "big")
    wide, high = struct.unpack(">II", inner[b"tkhd"][-8:]) if b"tkhd" in inner else (0, 0)
    for places in (inner.get(b"stco", b"")[8:12], inner.get(b"co64", b"")[8:16]):
        if places:
            at = int.from_bytes(places, "big")
            yield Coded(_size(parts, data[at : at + length]), (wide >> 16, high >> 16))


def _sequence(header: bytes) -> tuple[int, int]:
    """Return the largest width and height that a sequence's header lets its pictures have (AV1, 5.5.1)."""
    bits = Bits(header)
    bits(4)  # profile, and whether it is a still picture
    reduced = bits(1)
    if reduced:
        bits(5)
    else:
        _skip_times_and_points(bits)
    wide, high = bits(4) + 1, bits(4) + 1
    width, height = bits(wide) + 1, bits(high) + 1
    if not reduced:  # a picture may have another size than its sequence, of as many bits
        width = width if wide <= width.bit_length() else 1 << wide
        height = height if high <= height.bit_length() else 1 << high
    return width, height


def _skip_times_and_points(bits: Bits) -> None:
    delay = 0
    modelled = 0
    if bits(1):  # times
        bits(64)
        if bits(1):
            bits.number()
        modelled = bits(1)
        if modelled:
            delay = bits(5) + 1
            bits(42)
    shown = bits(1)
    for _ in range(bits(5) + 1):
        bits(12)
        if bits(5) > 7:
            bits(1)
        if modelled and bits(1):
            bits(2 * delay + 1)
        if shown and bits(1):
            bits(4)

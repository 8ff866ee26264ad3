"""How many pixels an AVIF codes, whatever its container says: its decoder makes room for all that are coded.

The container tells a size of each picture in it (`ispe`, ISO/IEC 23008-12, 6.5.3), and each coded picture tells its own
(AV1, 5.5.1). Where they differ, decoders scale the one to the other in silence.
"""

import struct
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from service.images.declared import Costly

_PARTS = 10_000  # boxes, pictures or pieces of pictures in one file
_AGAIN = 4  # times the file's bytes that are read of its parts: some are in one another
_PICTURES = 100_000  # of one film
_OF_FILMS = (b"stsd", b"stsz", b"stco", b"co64", b"tkhd")
_OF_STILLS = (b"iinf", b"iloc", b"idat", b"ipma", b"ipco")
_WITHIN = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"iprp", b"ipco")  # boxes of nothing but boxes
_LAYERS = (b"a1op", b"lsel")  # properties of a picture that has a coded one in several sizes
_PADDED = (1, 2, 8, 16, 64)  # multiples of pixels that encoders fill up sides to
_SEQUENCE = 1  # kind of the piece that tells a size
_HEADER = 1024  # bytes that it has at most


class Coded(NamedTuple):
    """A coded picture.

    size: its own width and height.
    said: those that the container tells of it; None: nothing, or those of one of its layers.
    """

    size: tuple[int, int]
    said: tuple[int, int] | None

    @property
    def pixels(self) -> int:
        """How many it has."""
        return self.size[0] * self.size[1]

    def is_of(self, said: tuple[int, int]) -> bool:
        """Whether it has so many pixels a side, or as many more as fill up a block."""
        return any(all(own == side + -side % by for own, side in zip(self.size, said, strict=True)) for by in _PADDED)


def begins(data: bytes) -> bool:
    """Whether bytes are those of a file that an AVIF's decoder may read."""
    return data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"mif1", b"msf1")


def coded(data: bytes) -> list[Coded]:
    """Return the coded pictures of an AVIF: all still ones, and the first one of each film.

    Raises:
        Costly: one of them tells no size, or there are very many.
        struct.error, IndexError: it is damaged.
    """
    parts = _Parts(data)
    found: list[Coded] = []
    for kind, start, end in parts.boxes(0, len(data)):
        if kind == b"meta":
            found += _stills(parts, start + 4, end)
        elif kind == b"trak":
            found += _films(parts, start, end)
    return found


def contradiction(pictures: Sequence[Coded]) -> str | None:
    """Return in which way a file says other sizes than it codes: a decoder scales its pictures in silence."""
    if not pictures:
        return "the picture's file does not tell how many pixels it codes"
    for one in pictures:
        if one.said is not None and not one.is_of(one.said):
            (width, height), (wide, high) = one.said, one.size
            return f"the picture's file says {width} x {height} pixels, and {wide} x {high} are coded in it"
    return None


class _Parts:
    """A file, whose parts are counted wherever they are met; there are no more pieces than the file has bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._left, self._bytes = _PARTS, _AGAIN * len(data)

    def count(self, parts: int = 1, length: int = 0) -> None:
        """Count parts, and bytes that are read of them.

        Raises:
            Costly: there are too many.
        """
        self._left -= parts
        self._bytes -= length
        if self._left < 0 or self._bytes < 0:
            raise Costly("it is made of very many small parts")

    def boxes(self, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Give the kinds of boxes, and where what is in them begins and ends; of boxes in boxes, too."""
        spans = [(start, end)]
        while spans:
            at, end = spans.pop()
            while at + 8 <= end:
                self.count()
                size, kind = struct.unpack_from(">I4s", self.data, at)
                first = at + 8
                if size == 1:
                    (size,) = struct.unpack_from(">Q", self.data, first)
                    first += 8
                last = min(end, at + size if size else end)
                if last < first:
                    raise Costly("it has a part of less than no bytes")
                yield kind, first, last
                if kind in _WITHIN:
                    spans.append((first, last))
                at = last

    def once(self, kinds: Collection[bytes], start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Give the boxes of some kinds, as `boxes` does.

        Raises:
            Costly: there are two of a kind, of which one reader takes the first and another the last.
        """
        met = set()
        for kind, first, last in self.boxes(start, end):
            if kind in kinds:
                if kind in met:
                    raise Costly("it says twice what can be said once")
                met.add(kind)
                self.count(0, last - first)
                yield kind, first, last

    def size(self, coded: bytes) -> tuple[int, int]:
        """Return the largest size that a coded picture tells.

        Raises:
            Costly: it tells none.
        """
        at, found = 0, []
        while at < len(coded):
            self.count()
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


def _films(parts: _Parts, start: int, end: int) -> Iterator[Coded]:
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
            yield Coded(parts.size(data[at : at + length]), (wide >> 16, high >> 16))


def _stills(parts: _Parts, start: int, end: int) -> Iterator[Coded]:
    """Give the coded pictures that a list of items has."""
    kinds: dict[int, bytes] = {}
    places: dict[int, list[tuple[int, int, int]]] = {}
    properties: list[tuple[bytes, bytes]] = []
    has: dict[int, list[int]] = {}
    inside, data = b"", parts.data
    for kind, first, last in parts.once(_OF_STILLS, start, end):
        within = data[first:last]
        if kind == b"iinf":
            skip = 6 if within[0] == 0 else 8
            for one, at, _ in parts.boxes(first + skip, last):
                if one == b"infe" and data[at] >= 2:
                    wide = data[at] > 2
                    number, _, what = struct.unpack_from(">IH4s" if wide else ">HH4s", data, at + 4)
                    kinds[number] = what
        elif kind == b"iloc":
            places |= _places(within, parts)
        elif kind == b"idat":
            inside = within
        elif kind == b"ipma":
            has |= _associated(within)
        elif kind == b"ipco":
            properties = [(one, data[at : min(till, at + 12)]) for one, at, till in parts.boxes(first, last)]
    for number, what in kinds.items():
        if what != b"av01":
            continue
        own = [properties[i - 1] for i in has.get(number, []) if 0 < i <= len(properties)]
        layered = any(name in _LAYERS for name, _ in own)
        said: list[tuple[int, int]] = [struct.unpack_from(">II", rest, 4) for name, rest in own if name == b"ispe"]
        pieces = []
        for method, at, length in places.get(number, []):
            source = inside if method == 1 else data
            pieces.append(source[at : at + length] if length else source[at:])
            parts.count(0, len(pieces[-1]))
        yield Coded(parts.size(b"".join(pieces)), said[0] if said and not layered else None)


def _places(box: bytes, parts: _Parts) -> dict[int, list[tuple[int, int, int]]]:
    """Return where items are (`iloc`): how their places are meant, where they begin, and how many bytes they have."""
    version, sizes = box[0], int.from_bytes(box[4:6], "big")
    offsets, lengths, bases, indices = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    indices = indices if version in (1, 2) else 0
    at, wide = 6, 4 if version == 2 else 2
    found: dict[int, list[tuple[int, int, int]]] = {}

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > len(box):
            raise Costly("its list of places ends early")
        return int.from_bytes(box[at - size : at], "big")

    for _ in range(number(wide)):
        parts.count()
        item = number(wide)
        method = number(2) & 15 if version in (1, 2) else 0
        number(2)  # which file it is in: this one
        base = number(bases)
        extents = number(2)
        parts.count(extents)
        for _ in range(extents):
            number(indices)
            begins = base + number(offsets)
            found.setdefault(item, []).append((method, begins, number(lengths)))
    return found


def _associated(box: bytes) -> dict[int, list[int]]:
    """Return which properties items have (`ipma`), counted from 1."""
    wide, large = box[0] > 0, box[3] & 1
    (entries,) = struct.unpack_from(">I", box, 4)
    at, found = 8, {}
    for _ in range(min(entries, _PARTS)):
        (item,) = struct.unpack_from(">I" if wide else ">H", box, at)
        at += 4 if wide else 2
        count, at = box[at], at + 1
        step = 2 if large else 1
        mask = 0x7FFF if large else 0x7F
        found[item] = [int.from_bytes(box[at + step * i : at + step * (i + 1)], "big") & mask for i in range(count)]
        at += step * count
    return found


class _Bits:
    """Bits of a header, from the first one on."""

    def __init__(self, data: bytes) -> None:
        self._all, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def __call__(self, count: int) -> int:
        """Return the next bits as a whole number."""
        self._left -= count
        if self._left < 0:
            raise Costly("the header of its coded picture is cut off")
        return self._all >> self._left & (1 << count) - 1


def _sequence(header: bytes) -> tuple[int, int]:
    """Return the largest width and height that a sequence's header lets its pictures have (AV1, 5.5.1)."""
    bits = _Bits(header)
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


def _skip_times_and_points(bits: _Bits) -> None:
    delay = 0
    modelled = 0
    if bits(1):  # times
        bits(64)
        if bits(1):
            zeros = 0
            while not bits(1):
                zeros += 1
            bits(zeros)
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

"""What files made of boxes hold: pictures, how large they say that these are, and where their bytes stand.

ISO/IEC 14496-12, 4.2, and 23008-12, 6; of which AVIF and HEIC are kinds.
"""

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from service.images.declared import Costly

_PARTS = 10_000  # boxes, pictures or pieces of pictures in one file
_AGAIN = 4  # times the file's bytes that are read of its parts: some are in one another
_WITHIN = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"iprp", b"ipco")  # boxes of nothing but boxes
_OF_ITEMS = (b"iinf", b"iloc", b"idat", b"ipma", b"ipco")
_LAYERS = (b"a1op", b"lsel")  # properties of a picture that has a coded one in several sizes
_PADDED = (1, 2, 8, 16, 64)  # multiples of pixels that encoders fill up sides to


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


def contradiction(pictures: Sequence[Coded]) -> str | None:
    """Return in which way a file says other sizes than it codes: a decoder scales its pictures in silence."""
    if not pictures:
        return "the picture's file does not tell how many pixels it codes"
    for one in pictures:
        if one.said is not None and not one.is_of(one.said):
            (width, height), (wide, high) = one.said, one.size
            return f"the picture's file says {width} x {height} pixels, and {wide} x {high} are coded in it"
    return None


class Item(NamedTuple):
    """A picture, coded or made of others.

    number: what it is called in the file.
    kind: how it is coded: `av01`, `hvc1`; or made: `grid`.
    said: the width and height that the container tells of it; None: nothing, or those of one of its layers.
    properties: kinds of boxes that say more about it, and where what is in them begins and ends.
    data: its bytes.
    """

    number: int
    kind: bytes
    said: tuple[int, int] | None
    properties: list[tuple[bytes, int, int]]
    data: bytes


class Parts:
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


def items(parts: Parts, start: int, end: int, wanted: Collection[bytes]) -> Iterator[Item]:
    """Give the items of some kinds that a list of them (`meta`) has."""
    kinds: dict[int, bytes] = {}
    places: dict[int, list[_Extent]] = {}
    properties: list[tuple[bytes, int, int]] = []
    has: dict[int, list[int]] = {}
    inside, data = b"", parts.data
    for kind, first, last in parts.once(_OF_ITEMS, start, end):
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
            properties = list(parts.boxes(first, last))
    for number, what in kinds.items():
        if what not in wanted:
            continue
        own = [properties[i - 1] for i in has.get(number, []) if 0 < i <= len(properties)]
        layered = any(name in _LAYERS for name, _, _ in own)
        said: list[tuple[int, int]] = [
            struct.unpack_from(">II", data, at + 4) for name, at, _ in own if name == b"ispe"
        ]
        pieces = []
        for extent in places.get(number, []):
            source = inside if extent.method == 1 else data
            pieces.append(source[extent.start : extent.start + extent.length if extent.length else None])
            parts.count(0, len(pieces[-1]))
        yield Item(number, what, said[0] if said and not layered else None, own, b"".join(pieces))


class _Extent(NamedTuple):
    """A piece of an item: how its place is meant, where it begins, how many bytes it has; and where that is said.

    method: 1: within `idat`; else in the file.
    told: by where a number is said and in how many bytes, the method's, the beginning's and the length's.
    base: what is added to where it begins.
    """

    method: int
    start: int
    length: int
    told: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    base: int


def _places(box: bytes, parts: Parts) -> dict[int, list[_Extent]]:
    """Return where items are (`iloc`)."""
    version, sizes = box[0], int.from_bytes(box[4:6], "big")
    offsets, lengths, bases, indices = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    indices = indices if version in (1, 2) else 0
    at, wide = 6, 4 if version == 2 else 2
    found: dict[int, list[_Extent]] = {}

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > len(box):
            raise Costly("its list of places ends early")
        return int.from_bytes(box[at - size : at], "big")

    for _ in range(number(wide)):
        parts.count()
        item = number(wide)
        methods = at, 2 if version in (1, 2) else 0
        method = number(methods[1]) & 15
        number(2)  # which file it is in: this one
        base = number(bases)
        extents = number(2)
        parts.count(extents)
        for _ in range(extents):
            number(indices)
            told = methods, (at, offsets), (at + offsets, lengths)
            start, length = number(offsets), number(lengths)
            found.setdefault(item, []).append(_Extent(method, base + start, length, told, base))
    return found


def moved(data: bytes, others: Mapping[int, bytes]) -> bytes | None:
    """Return a file in which some items have other bytes, which stand behind all that it has.

    None: its list of places has no room to say where they are then.
    """
    parts = Parts(data)
    changed, more = bytearray(data), []
    end = len(data) + 8
    for kind, start, last in parts.boxes(0, len(data)):
        if kind != b"meta":
            continue
        for _, first, till in parts.once((b"iloc",), start + 4, last):
            for item, extents in _places(data[first:till], parts).items():
                if item not in others:
                    continue
                for i, one in enumerate(extents):  # a byte each, and the last one has the rest
                    length = 1 if i + 1 < len(extents) else len(others[item]) - i
                    for (at, size), value in zip(one.told, (0, end + i - one.base, length), strict=True):
                        if not 0 <= value < 1 << 8 * size:
                            return None
                        changed[first + at : first + at + size] = value.to_bytes(size, "big")
                more.append(others[item])
                end += len(others[item])
    behind = b"".join(more)
    return bytes(changed) + struct.pack(">I4s", 8 + len(behind), b"mdat") + behind


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


class Bits:
    """Bits of a header, from the first one on."""

    def __init__(self, data: bytes) -> None:
        self._all, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def __call__(self, count: int) -> int:
        """Return the next bits as a whole number."""
        self._left -= count
        if self._left < 0:
            raise Costly("the header of its coded picture is cut off")
        return self._all >> self._left & (1 << count) - 1

    def number(self) -> int:
        """Return a whole number of as many bits as it needs (H.265, 9.2; AV1, 4.10.3)."""
        zeros = 0
        while not self(1):
            zeros += 1
        return (1 << zeros) - 1 + self(zeros)

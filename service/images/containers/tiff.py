"""Whether a TIFF has all that it says: its decoders leave black, or make up, what is missing, and tell nobody.

Of most compressions they tell where a strip or a tile ends early. They do not of pixels that are not compressed, of
JPEG, and of the codes of fax machines (TIFF 6.0, sections 7, 8, 10, 11, 15 and 22).
"""

import re
import struct
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from service.images.containers.continued import FILLING
from service.images.containers.jpeg import Whole
from service.images.declared import TIFFS, WHOLE_NUMBERS, Costly, Lacking, Strange

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOURS, _ORDER = 256, 257, 258, 259, 262, 266
_STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANES, _FAX = 273, 277, 278, 279, 284, 292
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _MORE_SAMPLES = 322, 323, 324, 325, 338
_STREAM, _STREAM_BYTES, _SUBSAMPLING = 513, 514, 530
_SHAPE = (_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOURS, _ORDER, _SAMPLES, _ROWS, _PLANES, _FAX, _MORE_SAMPLES)
_DATA = (_STRIPS, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _STREAM, _STREAM_BYTES, _SUBSAMPLING)
_RAW, _RUNS, _GROUP_3, _GROUP_4, _OLD_JPEG, _JPEG, _RUNS_OF_WORDS = 1, 2, 3, 4, 6, 7, 32771
_FAXES = (_RUNS, _GROUP_3, _GROUP_4)
_FAX_PARTS = 10_000
_FAX_ROWS = 2**16  # each of which its decoder may write a line about
_YCBCR = 6
_MARKERS = 25_000  # of all JPEGs in one file
_OF_PART = FILLING[:512]
_TAIL = 64  # bytes at the end of a fax's code in which its end is marked
# A line's end is a one behind eleven noughts or more (ITU-T T.4, 4.1.2). One ends a page of Group 4, where no lines are
# marked, and two of them, with nothing between but a bit that tells how the next line is coded, one of Group 3.
_ENDS = {_GROUP_3: re.compile("0{11}1(1?0{11,}1)+"), _GROUP_4: re.compile("0{11}1")}
_LINE = b"\x00\x18"  # such a one, and a bit more
_TURNED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Layout:
    """What a TIFF's first directory says of where its pixels are.

    said: by tag, its numbers.
    entries: of the directory, in the order of the file, each with its tag.
    at, end: where the directory stands.
    """

    data: bytes
    order: str
    large: bool
    said: dict[int, tuple[int, ...]]
    entries: tuple[tuple[int, bytes], ...]
    at: int
    end: int

    def one(self, tag: int, default: int) -> int:
        """Return a tag that has one number."""
        return self.said.get(tag, (default,))[0]

    @cached_property
    def compression(self) -> int:
        """How pixels are compressed."""
        return self.one(_COMPRESSION, _RAW)

    @cached_property
    def tiled(self) -> bool:
        """Whether pixels are in tiles, and not in strips."""
        return _STRIPS not in self.said

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of a strip or a tile; the last strips may have fewer rows."""
        width, height = self.one(_WIDTH, 0), self.one(_HEIGHT, 0)
        if self.tiled:
            return self.one(_TILE_WIDTH, 0), self.one(_TILE_HEIGHT, 0)
        return width, min(self.one(_ROWS, height), height)

    @cached_property
    def planes(self) -> int:
        """How many planes of colours there are, each with strips or tiles of its own, that are read."""
        more = self.said.get(_MORE_SAMPLES, ())
        return 1 if self.one(_PLANES, 1) != 2 else self.one(_SAMPLES, 1) - (len(more) if not any(more) else 0)

    @cached_property
    def in_plane(self) -> int:
        """How many strips or tiles a plane has."""
        width, height = self.size
        if width <= 0 or height <= 0:
            raise Lacking("rows")
        return -(-self.one(_WIDTH, 0) // width) * -(-self.one(_HEIGHT, 0) // height)

    @cached_property
    def parts(self) -> list[tuple[int, int]]:
        """Where strips or tiles begin, and how many bytes they have.

        Where the file says of none how many it has, each may have all up to whatever comes next.

        Raises:
            Lacking: there are fewer than there have to be.
        """
        starts = self.said.get(_TILES if self.tiled else _STRIPS, ())
        counts = self.said.get(_TILE_BYTES if self.tiled else _STRIP_BYTES, ())
        needed = self.in_plane * self.planes
        if len(starts) < needed:
            raise Lacking(f"{needed - len(starts)} of {needed} {'tiles' if self.tiled else 'strips'}")
        if not any(counts):
            others = sorted({*starts, len(self.data)})
            ends = [others[min(bisect(others, start), len(others) - 1)] for start in starts]
            ends = [min(end, self.at) if self.at >= start else end for start, end in zip(starts, ends, strict=True)]
            counts = tuple(end - start for start, end in zip(starts, ends, strict=True))
        counts += (0,) * (needed - len(counts))
        ends = [min(start + count, len(self.data)) for start, count in zip(starts, counts, strict=False)]
        return [(start, max(0, end - start)) for start, end in zip(starts, ends[:needed], strict=False)]

    def rows_of(self, i: int) -> int:
        """Return how many rows the strip or tile of a number has."""
        rows = self.size[1]
        return rows if self.tiled else min(rows, self.one(_HEIGHT, 0) - i % self.in_plane * rows)

    def name(self, i: int) -> str:
        """Return what the strip or tile of a number is called, counted from 1."""
        return f"{'tile' if self.tiled else 'strip'} {i + 1}"


def layout(data: bytes) -> Layout | None:
    """Return what a TIFF says of where its pixels are; None of other files.

    Raises:
        Strange: it says twice what can be said once, of which one reader takes the first and another the last.
        struct.error: it is cut off.
    """
    if data[:4] not in TIFFS:
        return None
    order, large = "<" if data.startswith(b"II") else ">", data[2] == 43
    (at,) = struct.unpack_from(order + ("Q" if large else "I"), data, 8 if large else 4)
    (count,) = struct.unpack_from(order + ("Q" if large else "H"), data, at)
    first, length, inline = at + (8 if large else 2), 20 if large else 12, 8 if large else 4
    said: dict[int, tuple[int, ...]] = {}
    entries = []
    for i in range(count):
        entry = data[first + i * length : first + (i + 1) * length]
        tag, kind, many = struct.unpack_from(order + ("HHQ" if large else "HHI"), entry)
        entries.append((tag, entry))
        if (tag not in _SHAPE and tag not in _DATA) or kind not in WHOLE_NUMBERS:
            continue
        form = f"{order}{many}{WHOLE_NUMBERS[kind]}"
        source, where = entry, length - inline
        if struct.calcsize(form) > inline:
            source, (where,) = data, struct.unpack_from(order + ("Q" if large else "I"), entry, length - inline)
        if tag in said:
            raise Strange(f"the picture is a TIFF that has the tag {tag} twice; save it again")
        said[tag] = struct.unpack_from(form, source, where)
    return Layout(data, order, large, said, tuple(entries), at, first + count * length + inline)


def check(found: Layout) -> None:
    """Hold what can be counted against what has to be there.

    Raises:
        Lacking: strips or tiles are missing, or have too few bytes.
        Strange: they have another size than the file says, or lie as no decoder here reads them.
        Costly: they are made of very many parts.
    """
    if found.compression == _RUNS_OF_WORDS:  # which its decoder takes for others, as words lie in its memory
        raise Strange(
            f"the picture is a TIFF of a fax's runs in words (compression {_RUNS_OF_WORDS}); save it with Group 4"
        )
    if found.compression in _FAXES and found.one(_HEIGHT, 0) > _FAX_ROWS:
        raise Costly("a fax's page of so many rows")
    if found.compression in _FAXES and len(found.parts) > _FAX_PARTS:
        raise Costly("it is made of very many small parts")
    if found.compression == _RAW:
        _check_raw(found)
    elif found.compression == _JPEG:
        _check_jpegs(found)


def continued(found: Layout) -> Iterator[bytes]:
    """Give files that show the same picture where nothing is missing that could not be counted; see `continued`."""
    if found.compression == _JPEG:
        yield _with(found, [one.continued(_OF_PART) for one in _jpegs(found)])
    elif found.compression == _OLD_JPEG:
        yield _with_stream(found)
    elif found.compression in _FAXES:
        for filling in (FILLING[:256], bytes(255 - byte for byte in FILLING[:256])):
            yield _with(found, [_faxed(found, part, filling) for part in _parts(found)])


def _parts(found: Layout) -> Iterator[bytes]:
    return (found.data[start : start + count] for start, count in found.parts)


def _check_raw(found: Layout) -> None:
    samples = found.one(_SAMPLES, 1)
    bits = found.said.get(_BITS, (1,))
    bits = bits * samples if len(bits) == 1 else bits[:samples]
    width, of_pixel = found.size[0], max(bits) if found.planes > 1 else sum(bits)
    starts = found.said.get(_TILES if found.tiled else _STRIPS, ())
    for i, (_, count) in enumerate(found.parts):
        needed = -(-width * of_pixel // 8) * found.rows_of(i)
        if count < needed and found.one(_COLOURS, 0) == _YCBCR and found.said.get(_SUBSAMPLING, (2, 2)) != (1, 1):
            raise Strange(
                "the picture is a TIFF of YCbCr that is not compressed and has fewer colours than pixels; save it in "
                "RGB"
            )
        if count < needed:
            raise Lacking(f"{needed - count:,} of {needed:,} bytes of {found.name(i)}")
    if len(starts) > len(found.parts) and found.one(_PLANES, 1) != 2:  # more of them would be laid over the first
        what = "tiles" if found.tiled else "strips"
        raise Strange(
            f"the picture is a TIFF that lists {len(starts)} {what}, and has pixels for {len(found.parts)}; save it "
            "again"
        )


def _jpegs(found: Layout) -> Iterator[Whole]:
    markers = 0
    for part in _parts(found):
        one = Whole(part)
        markers += one.markers
        if markers > _MARKERS:
            raise Costly("it is made of very many small parts")
        yield one


def _check_jpegs(found: Layout) -> None:
    for i, one in enumerate(_jpegs(found)):
        width, height = found.size[0], found.rows_of(i)
        if i >= found.in_plane and found.one(_COLOURS, 0) == _YCBCR:
            across, down = found.said.get(_SUBSAMPLING, (2, 2))
            width, height = -(-width // max(1, across)), -(-height // max(1, down))
        if one.size is None:
            raise Lacking(f"all of {found.name(i)}")
        if one.size[0] < width or one.size[1] < height:
            raise Strange(
                f"the picture is a TIFF that says {width} x {height} pixels of its {found.name(i)}, and "
                f"{one.size[0]} x {one.size[1]} are coded in it; save it again"
            )


def _with_stream(found: Layout) -> bytes:
    """Return a file of the older way to hold JPEG, whose last scan goes on: in a stream of all, or in strips."""
    if _STREAM in found.said:
        stream = Whole(found.data[found.one(_STREAM, 0) :][: found.one(_STREAM_BYTES, len(found.data))])
        if stream.scans:
            more = stream.continued()
            return _listing(found, more, {_STREAM: [len(found.data)], _STREAM_BYTES: [len(more)]})
    *others, last = _parts(found)
    marked = last.rfind(b"\xff\xd9")
    return _with(found, [*others, last[:marked] + FILLING + last[marked:] if marked >= 0 else last + FILLING])


def _faxed(found: Layout, code: bytes, filling: bytes) -> bytes:
    """Return codes of a fax machine that go on, where an end is marked behind what comes before it."""
    turned = found.one(_ORDER, 1) == 2
    tail = code[-_TAIL:].translate(_TURNED) if turned else code[-_TAIL:]
    bits = _bits(tail)
    ends = _ENDS.get(found.compression)
    marked = ends.search(bits) if ends is not None else None
    bits = (bits if marked is None else bits[: marked.start()]) + _lines(filling)
    bits += "0" * (-len(bits) % 8)
    more = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return code[: len(code) - len(tail)] + (more.translate(_TURNED) if turned else more)


def _bits(data: bytes) -> str:
    return f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}" if data else ""


@cache
def _lines(filling: bytes) -> str:
    """Return bits that are another line than whichever one is not whole, and lines."""
    first, *others = (filling[i : i + _TAIL] for i in range(0, len(filling), _TAIL))
    return _bits(first + b"".join(_LINE + one for one in others))


def _with(found: Layout, parts: Sequence[bytes]) -> bytes:
    """Return a file of other strips or tiles."""
    starts, counts = (_TILES, _TILE_BYTES) if found.tiled else (_STRIPS, _STRIP_BYTES)
    at, places = len(found.data), []
    for part in parts:
        places.append(at)
        at += len(part)
    return _listing(found, b"".join(parts), {starts: places, counts: [len(part) for part in parts]})


def _listing(found: Layout, more: bytes, numbers: Mapping[int, Sequence[int]]) -> bytes:
    """Return a file with more behind it, and a directory in which some tags have other numbers."""
    order, large = found.order, found.large
    entry, place, kind = ("HHQ", "Q", 16) if large else ("HHI", "I", 4)
    body = bytearray(found.data + more)
    entries = dict(found.entries)
    for tag, values in numbers.items():
        raw = struct.pack(f"{order}{len(values)}{place}", *values)
        if len(values) > 1:
            body += b"\0" * (len(body) % 2)
            raw, at = struct.pack(order + place, len(body)), raw
            body += at
        entries[tag] = struct.pack(order + entry, tag, kind, len(values)) + raw
    body += b"\0" * (len(body) % 2)
    struct.pack_into(order + place, body, 8 if large else 4, len(body))
    body += struct.pack(order + ("Q" if large else "H"), len(entries))
    return bytes(body + b"".join(entries[tag] for tag in sorted(entries)) + bytes(8 if large else 4))

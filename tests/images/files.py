"""Files that are taken apart and put together again with less in them, as their containers would have it."""

import base64
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
WHOLE = {1: "B", 3: "H", 4: "I", 16: "Q"}

HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAAGoAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRt"
    "AAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMA"
    "AAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5j"
    "bHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBp"
    "eGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAHJtZGF0AAAAZigBrxOA+BDhp//8TSj/+nXPD9PMiYn/+tNSR/hU"
    "O//WicPySkWzrHl9nv8H4h1KpEq3xpK+HfM2sf+d4tvFAhneIy6JZXLEP+zlxMa+qdw77mN6fapRbf83mqG4xuGn3Gx6O58SuA=="
)
"""64 x 48 pixels of 64 x 64 that are coded, red to the left and blue to the right, by another encoder than x265."""


@dataclass(frozen=True)
class Tiff:
    """A TIFF of one page: its tags (kind, bytes), and its strips or tiles."""

    order: str
    large: bool
    tags: dict[int, tuple[int, bytes]]
    parts: tuple[bytes, ...]

    @classmethod
    def of(cls, data: bytes) -> "Tiff":
        """Take one apart."""
        order, large = "<" if data[:1] == b"I" else ">", data[2] == 43 or data[3] == 43
        place = "Q" if large else "I"
        (at,) = struct.unpack_from(order + place, data, 8 if large else 4)
        (count,) = struct.unpack_from(order + ("Q" if large else "H"), data, at)
        at += 8 if large else 2
        tags = {}
        for _ in range(count):
            tag, kind, many = struct.unpack_from(order + ("HHQ" if large else "HHI"), data, at)
            where, size = at + (12 if large else 8), BYTES[kind] * many
            if size > (8 if large else 4):
                (where,) = struct.unpack_from(order + place, data, where)
            tags[tag] = kind, data[where : where + size]
            at += 20 if large else 12
        found = cls(order, large, tags, ())
        starts, counts = (found.numbers(tag) for tag in found.listing)
        return replace(found, parts=tuple(data[a : a + n] for a, n in zip(starts, counts, strict=True)))

    @property
    def listing(self) -> tuple[int, int]:
        """The tags of places and sizes."""
        return (273, 279) if 273 in self.tags else (324, 325)

    def numbers(self, tag: int) -> list[int]:
        """Return a tag's whole numbers."""
        kind, raw = self.tags[tag]
        return list(struct.unpack(f"{self.order}{len(raw) // BYTES[kind]}{WHOLE[kind]}", raw))

    def saying(self, **numbers: int | Sequence[int]) -> "Tiff":
        """Return it with tags of other numbers: `_257=99`."""
        given = {int(name[1:]): [value] if isinstance(value, int) else list(value) for name, value in numbers.items()}
        tags = {tag: (4, struct.pack(f"{self.order}{len(values)}I", *values)) for tag, values in given.items()}
        return replace(self, tags=self.tags | tags)

    def without(self, *tags: int) -> "Tiff":
        """Return it without some tags."""
        return replace(self, tags={tag: value for tag, value in self.tags.items() if tag not in tags})

    def having(self, parts: Sequence[bytes]) -> "Tiff":
        """Return it with other strips or tiles."""
        return replace(self, parts=tuple(parts))

    def file(self, behind: bool = False, sizes: bool = True) -> bytes:
        """Put it together, its directory before or behind what it lists; `sizes`: say how many bytes each has."""
        order, inline, place, kind = self.order, 8 if self.large else 4, "Q" if self.large else "I", 4 + 12 * self.large
        head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HHH"[: 1 + 2 * self.large], *self._magic)
        body, tags = b"".join(self.parts), dict(self.tags)
        starts, counts = self.listing
        tags[starts] = kind, bytes(inline * len(self.parts))
        tags[counts] = kind, struct.pack(f"{order}{len(self.parts)}{place}", *map(len, self.parts))
        if not sizes:
            del tags[counts]
        first = len(head) + inline
        at = first + (len(body) + len(body) % 2 if behind else 0)
        more = at + (8 if self.large else 2) + (20 if self.large else 12) * len(tags) + inline
        long = sum(len(raw) + len(raw) % 2 for _, raw in tags.values() if len(raw) > inline)
        places = np.cumsum([first if behind else more + long, *map(len, self.parts)])[:-1].tolist()
        tags[starts] = kind, struct.pack(f"{order}{len(places)}{place}", *places)
        entries = apart = b""
        for tag, (form, raw) in sorted(tags.items()):
            value = raw.ljust(inline, b"\0")
            if len(raw) > inline:
                value = struct.pack(order + place, more + len(apart))
                apart += raw + bytes(len(raw) % 2)
            count = len(raw) // BYTES[form]
            entries += struct.pack(order + ("HHQ" if self.large else "HHI"), tag, form, count) + value
        listed = struct.pack(order + ("Q" if self.large else "H"), len(tags)) + entries + bytes(inline) + apart
        rest = body + bytes(len(body) % 2) + listed if behind else listed + body
        return head + struct.pack(order + place, at) + rest

    @property
    def _magic(self) -> tuple[int, ...]:
        return (43, 8, 0) if self.large else (42,)


def tiff(
    pixels: npt.NDArray[np.generic],
    order: str = "<",
    *,
    large: bool = False,
    tile: int | None = None,
    rows: int = 16,
    planes: bool = False,
    compress: bool = False,
    differences: bool = False,
) -> Tiff:
    """Return a TIFF of grey (H, W) or RGB (H, W, 3) in 8, 16 or 32 bits, its strips or tiles raw or deflated."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    height, width, colours = pixels.shape
    size = tile or width, tile or rows
    filled = np.pad(pixels, ((0, -height % size[1] if tile else 0), (0, -width % size[0]), (0, 0)))
    parts = []
    for plane in np.split(filled, colours, 2) if planes else [filled]:
        for y in range(0, filled.shape[0], size[1]):
            for x in range(0, filled.shape[1], size[0]):
                part = plane[y : y + size[1], x : x + size[0]].copy()
                if differences:
                    part[:, 1:] -= part[:, :-1].copy()
                raw = part.astype(part.dtype.newbyteorder(order)).tobytes()
                parts.append(zlib.compress(raw) if compress else raw)
    bits = [8 * pixels.dtype.itemsize] * colours
    numbers = {256: [width], 257: [height], 258: bits, 259: [8 if compress else 1], 262: [2 if colours == 3 else 1]}
    numbers |= {277: [colours], 284: [2 if planes else 1], 317: [2 if differences else 1]}
    numbers |= {322: [tile], 323: [tile]} if tile else {278: [rows]}
    tags = {tag: (3, struct.pack(f"{order}{len(values)}H", *values)) for tag, values in numbers.items()}
    tags[324 if tile else 273] = 4, b""
    return Tiff(order, large, tags, tuple(parts))


def chunks(data: bytes, form: str, first: int, even: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """Give the names and contents of a file's chunks: `>I4s` of a PNG, `<4sI` of a RIFF."""
    at = first
    while at + 8 <= len(data):
        one, other = struct.unpack_from(form, data, at)
        name, length = (one, other) if isinstance(one, bytes) else (other, one)
        yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + (length % 2 if even else 4)

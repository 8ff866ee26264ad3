"""How many pixels a HEIC codes, whatever its container says: its decoder makes room for all that are coded.

The container tells a size of each picture in it (`ispe`, ISO/IEC 23008-12, 6.5.3); each coded one tells its own in a
sequence parameter set (ITU-T H.265, 7.3.2.2), and each that is made of others in what describes that (23008-12, 6.6.2).
"""

import struct
from collections.abc import Collection, Iterator

import numpy as np
from PIL import Image

from service.images.containers.boxes import Bits, Coded, Item, Parts, items, moved
from service.images.containers.continued import FILLING
from service.images.declared import Costly

BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_CODED, _MADE = (b"hvc1", b"hev1"), (b"grid", b"iovl")
_SET = 33  # kind of the piece that is a sequence parameter set
_MOST = 1  # bytes that a pixel is coded in
_PIECE = 2**24 - 2**16  # bytes of one: its decoder takes none of 2^24
_FIRST_OTHER = 32  # of pieces that code no part of a picture
_HEADER = 256  # bytes of it in which a size is told
_STEP = 16  # pixels; tiles have more
_GREEN = range(130, 142)  # of a pixel whose brightness and colours are nought
_FIRST_SETS = 22  # bytes of a configuration (ISO/IEC 14496-15, 8.3.3.1) before its sets


def begins(data: bytes) -> bool:
    """Whether bytes are those of a file that a HEIC's decoder may read."""
    return data[4:8] == b"ftyp" and data[8:12] in BRANDS


def coded(data: bytes) -> list[Coded]:
    """Return the pictures of a HEIC, coded ones and those that are made of them.

    Raises:
        Costly: one of them tells no size, or there are very many parts.
        struct.error, IndexError: it is damaged.
    """
    parts = Parts(data)
    return [
        Coded(_made(one) if one.kind in _MADE else _largest(parts, one), one.said)
        for one in _items(parts, (*_CODED, *_MADE))
    ]


def continued(data: bytes) -> bytes | None:
    """Return a file whose coded values go on behind their end: a decoder tells nobody where they end early.

    None: there is no room for more in the file.

    Raises:
        Costly: there are very many parts.
    """
    parts = Parts(data)
    others = {}
    for one in _items(parts, _CODED):
        length, pieces = _length(parts, one), list(_pieces(parts, one))
        width, height = _largest(parts, one)
        slices = sum(_codes(piece) for piece in pieces)
        # As long as what is missing may be: a slice may say of its rows how far behind its beginning each begins.
        filling = FILLING * (1 + _MOST * width * height // max(1, slices) // len(FILLING))
        most = min((1 << 8 * length) - 1, _PIECE)
        longer = [(piece + filling)[: max(most, len(piece))] if _codes(piece) else piece for piece in pieces]
        others[one.number] = b"".join(len(piece).to_bytes(length, "big") + piece for piece in longer)
    return moved(data, others)


def may_lack_tiles(data: bytes, image: Image.Image) -> bool:
    """Whether a picture that is laid out of others shows what a decoder lays where it cannot read one: noughts."""
    if not any(True for _ in _items(Parts(data), _MADE)):
        return False
    values = np.asarray(image)[_STEP // 2 :: _STEP, _STEP // 2 :: _STEP]
    if values.ndim == 2:
        return bool((values == 0).any())
    red, green, blue = (values[..., i] for i in range(3))
    noughts = (red == 0) & (green >= _GREEN.start) & (green < _GREEN.stop) & (blue == 0)
    return bool((noughts | (values[..., -1] == 0) if image.mode == "RGBA" else noughts).any())


def alone(data: bytes) -> Iterator[bytes]:
    """Give a file for each coded picture; a decoder tells of none that it cannot read where others are beside it."""
    parts = Parts(data)
    for one in _items(parts, _CODED):
        own = [_box(kind, data[start:end]) for kind, start, end in one.properties if kind in (b"hvcC", b"ispe")]
        entry = _box(b"infe", struct.pack(">IHH4sx", 2 << 24, 1, 0, one.kind))
        has = struct.pack(">IIHB", 0, 1, 1, len(own)) + bytes(range(1, 1 + len(own)))
        boxes = [
            _box(b"hdlr", bytes(8), b"pict", bytes(13)),
            _box(b"pitm", struct.pack(">IH", 0, 1)),
            _box(b"iinf", struct.pack(">IH", 0, 1), entry),
            _box(b"iprp", _box(b"ipco", *own), _box(b"ipma", has)),
            _box(b"iloc", struct.pack(">IHHHHHHII", 1 << 24, 0x4400, 1, 1, 1, 0, 1, 0, len(one.data))),
            _box(b"idat", one.data),
        ]
        yield _box(b"ftyp", b"heic", bytes(4), b"mif1heic") + _box(b"meta", bytes(4), *boxes)


def _box(kind: bytes, *inner: bytes) -> bytes:
    inside = b"".join(inner)
    return struct.pack(">I4s", 8 + len(inside), kind) + inside


def _codes(piece: bytes) -> bool:
    """Whether a piece codes a part of a picture."""
    return piece[0] >> 1 & 63 < _FIRST_OTHER


def _items(parts: Parts, kinds: Collection[bytes]) -> Iterator[Item]:
    for kind, start, end in parts.boxes(0, len(parts.data)):
        if kind == b"meta":
            yield from items(parts, start + 4, end, kinds)


def _made(item: Item) -> tuple[int, int]:
    """Return the size of a picture that is laid out of others, or of the canvas that others lie on."""
    at = 4 if item.kind == b"grid" else 10
    width, height = struct.unpack_from(">II" if item.data[1] & 1 else ">HH", item.data, at)
    return width, height


def _largest(parts: Parts, item: Item) -> tuple[int, int]:
    """Return the largest size that a coded picture tells, in its configuration or among its pieces."""
    sets = [one for configuration in _configurations(parts, item) for one in _sets(parts, configuration)]
    sets += [one[:_HEADER] for one in _pieces(parts, item) if one[0] >> 1 & 63 == _SET]
    if not sets:
        raise Costly("its coded picture tells no size")
    return max((_size(one) for one in sets), key=lambda size: size[0] * size[1])


def _configurations(parts: Parts, item: Item) -> Iterator[bytes]:
    for kind, start, end in item.properties:
        if kind == b"hvcC":
            parts.count(0, end - start)
            yield parts.data[start:end]


def _length(parts: Parts, item: Item) -> int:
    """Return in how many bytes the length of a piece is told."""
    return max(((one[21] & 3) + 1 for one in _configurations(parts, item)), default=4)


def _pieces(parts: Parts, item: Item) -> Iterator[bytes]:
    """Give what a coded picture is made of."""
    length, at = _length(parts, item), 0
    while at + length < len(item.data):
        parts.count()
        size = int.from_bytes(item.data[at : at + length], "big")
        at += length
        if size:
            yield item.data[at : at + size]
        at += size


def _sets(parts: Parts, configuration: bytes) -> Iterator[bytes]:
    """Give the beginnings of the sequence parameter sets of a configuration."""
    at = _FIRST_SETS + 1
    for _ in range(configuration[_FIRST_SETS]):
        kind, count = configuration[at] & 63, int.from_bytes(configuration[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            parts.count()
            size = int.from_bytes(configuration[at : at + 2], "big")
            if kind == _SET:
                yield configuration[at + 2 : at + 2 + min(size, _HEADER)]
            at += 2 + size


def _size(piece: bytes) -> tuple[int, int]:
    """Return the width and height that a sequence parameter set lets pictures have, before they are cropped."""
    bits = Bits(piece[2:].replace(b"\0\0\3", b"\0\0"))  # a three that stands there only to break noughts up
    bits(4)
    layers = bits(3)
    bits(1 + 96)
    has = [(bits(1), bits(1)) for _ in range(layers)]
    if layers:
        bits(2 * (8 - layers))
    for profile, level in has:
        bits(88 * profile + 8 * level)
    bits.number()
    if bits.number() == 3:
        bits(1)
    return bits.number(), bits.number()

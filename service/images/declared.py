"""What a file says of itself that its decoder makes room for before, or beside, the pixels of its picture.

Files are read as Pillow and libtiff read them, also where they are made so that another reader sees something else.
"""

import struct
from collections.abc import Iterator

_GIF_BLOCKS = 10_000  # before the first frame
_TIFF_PARTS = 50_000  # strips, tiles, and entries of any other list
METADATA_BYTES = 2**19
TIFFS = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
# By type.
WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_BYTES = (1, 2, 7)  # types of which a list is one piece: a colour profile, or text
_TILE = 2**20  # pixels that a tile may have, whatever the picture has
_TILE_SHARE = 4  # pictures that a tile may cover
_TILE_STEP = 16  # pixels that sides of tiles are multiples of


class Costly(Exception):
    """A file that would take much longer, or much more memory, than its size and pixels tell."""


class Strange(Exception):
    """A file that is not shown here, for the reason that it says: a whole sentence with its remedy."""


class Lacking(Strange):
    """A file that says that it has what it has not; a decoder would make it up."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the picture lacks {what} that its file says it has; it is damaged or cut off: save it again")


def canvas(data: bytes) -> tuple[int, int] | None:
    """Return the size of a canvas (width, height) whose decoder makes it when a file is opened; None for other files.

    Raises:
        Costly: it is made of very many parts.
        struct.error, IndexError: it is damaged.
    """
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return _gif(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _gif(data: bytes) -> tuple[int, int]:
    """Return the size of a GIF's screen, which its first frame may enlarge."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    blocks = _Blocks(data)
    for _ in range(_GIF_BLOCKS):
        kind, at = data[at : at + 1], at + 1
        if kind in (b"", b";"):
            break
        if kind == b",":
            x, y, w, h = struct.unpack_from("<HHHH", data, at)
            return max(width, x + w), max(height, y + h)
        if kind == b"!":
            at = blocks.behind(at)
    else:
        raise Costly("it is made of very many small parts")
    return width, height


class _Blocks:
    """The blocks before a GIF's first frame, each of at most 255 bytes.

    They are counted, and so are the bytes of comments: Pillow puts a comment together block by block, and copies all
    that it has for each.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left, self._comments = _GIF_BLOCKS, METADATA_BYTES

    def behind(self, at: int) -> int:
        """Return where an extension ends.

        Raises:
            Costly: there are very many blocks, or very long comments.
        """
        label = self._data[at]
        block, at = self._next(at + 1)
        if label == 254:  # a comment, which ends at its first block of no bytes
            while block:
                self._comments -= len(block)
                block, at = self._next(at)
            return at
        # Of any other one the first block may have no bytes, and does not end it.
        if label == 255 and block.startswith(b"NETSCAPE2.0"):
            _, at = self._next(at)
        block, at = self._next(at)
        while block:
            block, at = self._next(at)
        return at

    def _next(self, at: int) -> tuple[bytes, int]:
        """Return a block, and what follows it."""
        self._left -= 1
        if self._left < 0 or self._comments < 0:
            raise Costly("it is made of very many small parts, or of a very long comment")
        length = self._data[at] if at < len(self._data) else 0
        return self._data[at + 1 : at + 1 + length], at + 1 + length


def tile(data: bytes, max_pixels: int) -> int:
    """Return how many pixels the tiles of a TIFF have, which are decoded one by one; 0 without tiles, or for others.

    Raises:
        Costly: they are much larger than the picture, or than pictures may be; or it lists very many parts.
        struct.error: it is damaged.
    """
    if data[:4] not in TIFFS:
        return 0
    said: dict[int, list[int]] = {}
    for tag, value in _entries(data):
        said.setdefault(tag, []).append(value)
    # One reader takes the first of two entries, and another the last.
    width, height = (min(said.get(tag, [0])) for tag in (_WIDTH, _HEIGHT))
    w, h = (max(said.get(tag, [0])) for tag in (_TILE_WIDTH, _TILE_HEIGHT))
    pixels = width * height
    filled = (width + -width % _TILE_STEP) * (height + -height % _TILE_STEP)
    if w * h > max(min(filled, 2 * pixels), min(max_pixels, max(_TILE, _TILE_SHARE * pixels))):
        raise Costly(f"its tiles have {w} x {h} pixels, and the picture has {width} x {height}")
    return w * h


def _entries(data: bytes) -> Iterator[tuple[int, int]]:
    """Give the tags of a TIFF's first directory that have a single whole number.

    Raises:
        Costly: one of them lists very many parts.
    """
    order = "<" if data.startswith(b"II") else ">"
    # Pillow takes a large file of that order for one of the usual kind, and libtiff does not.
    for large in (False, True) if data[:4] == b"MM\0+" else (data[:4] == b"II+\0",):
        (at,) = struct.unpack_from(order + ("Q" if large else "I"), data, 8 if large else 4)
        (entries,) = struct.unpack_from(order + ("Q" if large else "H"), data, at)
        if entries > _TIFF_PARTS:
            raise Costly("it is made of very many small parts")
        first, length = at + (8 if large else 2), 20 if large else 12
        for i in range(entries):
            where = first + length * i
            tag, kind, count = struct.unpack_from(order + ("HHQ" if large else "HHI"), data, where)
            if count > max(_TIFF_PARTS, METADATA_BYTES if kind in _BYTES else 0):
                raise Costly("it is made of very many small parts")
            if count == 1 and kind in WHOLE_NUMBERS and (large or struct.calcsize(order + WHOLE_NUMBERS[kind]) <= 4):
                yield (
                    tag,
                    struct.unpack_from(order + WHOLE_NUMBERS[kind], data, where + length - (8 if large else 4))[0],
                )

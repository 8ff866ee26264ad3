"""Whether a PNG has as many rows as it says: its decoder leaves those black that are missing, and tells nobody."""

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the kind of colour
# Of an interlaced picture's passes: first column and row, and steps between columns and rows (PNG, 8.2).
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INTERLACED = 28  # where a file says whether it is
_PIECE = 2**16  # bytes that are inflated at a time


def lacks_rows(data: bytes, image: Image.Image) -> bool:
    """Whether rows are missing of what a PNG was decoded to, whose last ones are then zero throughout."""
    width, height = image.size
    last = (image.crop((0, row, width, row + 1)) for row in range(max(0, height - 2), height))
    alone = height == 1 and data[_INTERLACED] != 0  # several passes are in one row
    if not alone and all(any(row.tobytes()) for row in last):
        return False
    left = _size(data)
    inflate = zlib.decompressobj()
    for piece in chunks(data, b"IDAT"):
        while piece and left > 0:
            try:
                left -= len(inflate.decompress(piece, _PIECE))
            except zlib.error:  # its decoder has met the same, or does not need what follows
                return False
            piece = inflate.unconsumed_tail
    return left > 0


def chunks(data: bytes, kind: bytes) -> Iterator[bytes]:
    """Give what a PNG's chunks of a kind have, such as IDAT, which are what is coded of its picture."""
    at = 8
    while at + 12 <= len(data):
        length, found = struct.unpack_from(">I4s", data, at)
        if found == kind:
            yield data[at + 8 : at + 8 + length]
        at += 12 + length


def _size(data: bytes) -> int:
    """Return how many bytes are coded of a picture, with one before each row that says how the row is filtered."""
    width, height, depth, colours, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * _CHANNELS[colours]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    return sum(high * (1 + -(-wide * bits // 8)) for wide, high in sizes if wide > 0 and high > 0)

"""Pictures whose coded values go on behind their end: which shows none of them where nothing is missing.

Decoders that meet no value where a file says that there is one take something for it, and tell nobody. What they take
is not known from what is seen; but it is another thing as soon as there is something to take.
"""

from PIL import Image

FILLING = bytes((0xB5 + 151 * i) % 251 for i in range(4096))
"""Values of no picture, of no marker, and beginning with none that decoders take for missing ones."""
_ROWS = 64  # that are compared at a time


def differ(one: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures are not the same; takes no memory beside them."""
    if (one.mode, one.size) != (other.mode, other.size):
        return True
    for top in range(0, one.height, _ROWS):
        box = 0, top, one.width, min(top + _ROWS, one.height)
        if one.crop(box).tobytes() != other.crop(box).tobytes():
            return True
    return False

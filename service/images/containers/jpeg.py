"""What a JPEG is made of: refused where its decoder would take long over it, or would make blocks up."""

import re

from PIL import Image, ImageChops

from service.images.declared import METADATA_BYTES, Costly, Strange

# Its decoder goes over it once a scan. No program writes pictures that come near these bounds.
_SCANS, _SEGMENTS = 32, 10_000
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_END = b"\xff\xd9"
_FILLING = b"\x55" * 4096
_MADE_UP = range(127, 129)  # in all colours, where all that is coded of a block is missing


class Whole:
    """A JPEG's bytes, with an end where only that is missing.

    A decoder makes grey blocks up where none are coded, be it that the file is cut off or that its header says more
    pixels, and tells nobody. Where none is missing, bytes that follow the last block change no pixel.
    """

    def __init__(self, data: bytes) -> None:
        """Follow its markers as its decoder will.

        Raises:
            Costly: too many scans or segments, too much EXIF, or a coding other than baseline and progressive.
            Strange: its colours have more than 8 bits.
        """
        end = _end(data)
        self.ends = end is not None
        self.data = data if end is not None else data.removesuffix(b"\xff") + _END
        self._end = end if end is not None else len(self.data) - len(_END)

    def is_in_doubt(self, image: Image.Image) -> bool:
        """Whether blocks may be missing of what it was decoded to: it has no end, or ends in what is made up."""
        last = image.getpixel((image.width - 1, image.height - 1))
        return not self.ends or all(value in _MADE_UP for value in (last if isinstance(last, tuple) else (last,)))

    def filled(self) -> bytes:
        """Return it with bytes behind its last block."""
        return self.data[: self._end] + _FILLING + self.data[self._end :]

    @staticmethod
    def check(image: Image.Image, filled: Image.Image) -> None:
        """Compare what it was decoded to with what `filled` was.

        Raises:
            OSError: blocks are missing.
        """
        if image.size != filled.size or ImageChops.difference(image, filled).getbbox(alpha_only=False) is not None:
            raise OSError("blocks are missing")


def _end(data: bytes) -> int | None:
    """Return where a JPEG's end is marked; refuse what no camera or program writes."""
    at, scans, segments, metadata = 2, 0, 0, 0
    while found := _MARKER.search(data, at):
        at, marker = found.end(), data[found.end() - 1]
        if marker == _END[1]:
            return found.start()
        length = int.from_bytes(data[at : at + 2], "big")
        segments += 1
        scans += marker == 0xDA
        metadata += length if marker == 0xE1 and data[at + 2 : at + 6] == b"Exif" else 0
        if scans > _SCANS or segments > _SEGMENTS or metadata > METADATA_BYTES:
            raise Costly("it has very many scans or segments, or much EXIF")
        if 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise Costly("its JPEG coding is neither baseline nor progressive")
        if 0xC0 <= marker <= 0xC2 and data[at + 2 : at + 3] not in (b"\x08", b""):
            raise Strange(f"the picture is a JPEG of {data[at + 2]} bits a colour; save it as one of 8, or as PNG")
        at += max(2, length)
    return None

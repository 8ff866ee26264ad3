"""What a JPEG is made of: refused where its decoder would take long over it, or would make blocks up."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.images.containers.continued import FILLING
from service.images.declared import METADATA_BYTES, Costly, Lacking, Strange

# Its decoder goes over it once a scan. No program writes pictures that come near these bounds.
_SCANS, _SEGMENTS, _RESTARTS = 24, 10_000, 400_000
_RESOURCES, _TABLES = 20_000, 2**16  # of Photoshop; bytes of tables: Pillow reads both one by one in Python
_BEGINNING, _END = b"\xff\xd8", b"\xff\xd9"
_RESTART = [bytes((0xFF, 0xD0 + i)) for i in range(8)]
_OF_RESTART = FILLING[:64]
_MADE_UP = range(127, 129)  # in all colours, where all that is coded of a block is missing
_BLOCK = 8  # pixels a side
_COEFFICIENTS = 64


@dataclass
class _Parts:
    """What a JPEG's markers tell.

    size: its width and height; None: nothing tells them.
    end: where its end is marked; None: nowhere.
    restarts: whether there are marks at which a decoder begins anew.
    coded: where values are coded, a scan each; the end of the last one is None where no marker follows it.
    untold: by component and coefficient, whether there are bits that no scan tells.
    markers: how many there are.
    """

    size: tuple[int, int] | None = None
    end: int | None = None
    progressive: bool = False
    restarts: bool = False
    coded: list[tuple[int, int | None]] = field(default_factory=list)
    untold: dict[int, list[bool]] = field(default_factory=dict)
    markers: int = 0


class Whole:
    """A JPEG's bytes, with an end where only that is missing.

    One may end before its scans have told all of its values, which is no error (T.81, G.1.1.1): `is_partial` says so.

    A decoder makes grey blocks up where none are coded, be it that the file is cut off or that its header says more
    pixels, and tells nobody. Where none is missing, bytes that follow the last block of a scan, or of an interval
    between two marks to restart at, change no pixel.
    """

    def __init__(self, data: bytes) -> None:
        """Follow its markers as its decoder will.

        Raises:
            Costly: too many scans, segments or tables, too much EXIF, or a coding other than baseline and progressive.
            Strange: its colours have more than 8 bits.
            Lacking: whole scans are missing.
        """
        parts = _parts(data)
        self.ends = parts.end is not None
        self.size, self.markers = parts.size, parts.markers
        self.data = data if self.ends else data.removesuffix(b"\xff") + _END
        self._restarts = parts.restarts
        self.scans = len(parts.coded)
        last = parts.end if parts.end is not None else len(self.data) - len(_END)
        self._coded = [(start, last if end is None else end) for start, end in parts.coded]
        self.is_partial = any(any(coefficients) for coefficients in parts.untold.values())
        if not self.ends and self.is_partial:
            raise Lacking("scans")

    def is_in_doubt(self, image: Image.Image) -> bool:
        """Whether values may be missing of what it was decoded to.

        They may where it has no end, or several scans, any of which may end early; else what is missing is seen: blocks
        that are made up, the last one of all where there are no marks to restart at. Only of the block in which values
        end, something may be missing unseen.
        """
        if not self.ends or self.scans > 1:
            return True
        last = image.getpixel((image.width - 1, image.height - 1))
        if all(value in _MADE_UP for value in (last if isinstance(last, tuple) else (last,))):
            return True
        if not self._restarts:
            return False
        pixels = np.asarray(image)[_BLOCK // 2 :: _BLOCK, _BLOCK // 2 :: _BLOCK]
        grey = (pixels >= _MADE_UP.start) & (pixels < _MADE_UP.stop)
        return bool((grey.all(-1) if grey.ndim > 2 else grey).any())

    def continued(self, filling: bytes = FILLING) -> bytes:
        """Return it with values behind those that it has: a picture that lacks none shows none of them.

        Raises:
            Costly: it has very many marks to restart at.
        """
        pieces, at = [], 0
        for start, end in self._coded:
            coded = self.data[start:end]
            marks = sum(coded.count(mark) for mark in _RESTART)
            if marks > _RESTARTS:
                raise Costly("it is made of very many small parts")
            if marks:
                for mark in _RESTART:
                    coded = coded.replace(mark, _OF_RESTART + mark)
            pieces += [self.data[at:start], coded, filling]
            if marks or self._restarts:  # its decoder waits for one of them; tables in a TIFF may say so
                pieces += [mark + _OF_RESTART for mark in 2 * _RESTART]
            at = end
        return b"".join((*pieces, self.data[at:]))


def _parts(data: bytes) -> _Parts:
    """Return what a JPEG is made of; refuse what no camera or program writes."""
    found, at, metadata, tables = _Parts(), 2, 0, 0
    if data.count(b"8BIM") > _RESOURCES:
        raise Costly("it is made of very many small parts")
    marked = _marked(data)
    while (i := int(np.searchsorted(marked, at))) < len(marked):
        start = int(marked[i])
        at, marker = start + 2, data[start + 1]
        if found.coded and found.coded[-1][1] is None:
            found.coded[-1] = found.coded[-1][0], start
        if marker == _END[1]:
            found.end = start
            break
        length = int.from_bytes(data[at : at + 2], "big")
        found.markers += 1
        metadata += length if marker == 0xE1 and data[at + 2 : at + 6] == b"Exif" else 0
        tables += length if marker == 0xDB else 0
        if found.markers > _SEGMENTS or metadata > METADATA_BYTES or tables > _TABLES:
            raise Costly("it has very many scans, segments or tables, or much EXIF")
        if 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise Costly("its JPEG coding is neither baseline nor progressive")
        body = data[at + 2 : at + max(2, length)]
        at += max(2, length)
        found.restarts |= marker == 0xDD and any(body[:2])
        if 0xC0 <= marker <= 0xC2:
            _frame(found, body, marker == 0xC2)
        elif marker == 0xDA:
            _scan(found, body)
            found.coded.append((at, None))
            if len(found.coded) > _SCANS:
                raise Costly("it has very many scans, segments or tables, or much EXIF")
    return found


def _marked(data: bytes) -> npt.NDArray[np.intp]:
    """Return where markers may begin, but for those to restart at, as bytes in the middle of a segment may look."""
    values = np.frombuffer(data, np.uint8)
    marks = values[1:]
    marked = (marks >= 0xC0) & (marks < 0xFF) & ((marks < 0xD0) | (marks > 0xD8))
    return np.flatnonzero(marked & (values[:-1] == 0xFF))


def _frame(found: _Parts, body: bytes, progressive: bool) -> None:
    """Note a frame's header (T.81, B.2.2)."""
    if body[:1] not in (b"\x08", b""):
        raise Strange(f"the picture is a JPEG of {body[0]} bits a colour; save it as one of 8, or as PNG")
    if len(body) < 6:
        return
    found.size = int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
    found.progressive = progressive
    found.untold = {number: [True] * _COEFFICIENTS for number in body[6 : 6 + 3 * body[5] : 3]}


def _scan(found: _Parts, body: bytes) -> None:
    """Note a scan's header (T.81, B.2.3): of which components it tells which coefficients, down to which bit."""
    count = body[0] if body else 0
    if len(body) < 4 + 2 * count:
        return
    first, last, bits = body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count] & 15
    if not found.progressive:  # each tells all, whatever it says
        first, last, bits = 0, _COEFFICIENTS - 1, 0
    for number in body[1 : 1 + 2 * count : 2]:
        if number in found.untold:
            told = range(first, min(last + 1, _COEFFICIENTS))
            found.untold[number][told.start : told.stop] = [bits > 0] * len(told)

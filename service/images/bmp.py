"""BMP files that Pillow reads in another way than browsers, or not at all: run-length coded, or of uncommon masks."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

_RLE8, _RLE4, _MASKS, _ALPHA_MASKS = 1, 2, 3, 6  # compressions
_RUNS = 250_000  # of a run-length coded file; each takes a turn of a loop
_OLDEST = 40  # bytes of the header that has a compression
_HEADERS = (40, 52, 56)  # of fewer bytes than OS/2's longest, whose ends may be left out down to 16
_BLOCK = 2**18  # pixels that are unmasked at a time


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    top_down: the first row is the highest one.
    start: where pixels begin.
    masks: which bits are red, green, blue and opacity; 0: none.
    palette: (n, 3), red first.
    """

    width: int
    height: int
    top_down: bool
    bits: int
    compression: int
    start: int
    masks: tuple[int, int, int, int]
    palette: npt.NDArray[np.uint8]

    @property
    def run_length_coded(self) -> bool:
        """Whether pixels are coded as runs of one colour."""
        return (self.compression, self.bits) in ((_RLE8, 8), (_RLE4, 4))

    @property
    def masked(self) -> bool:
        """Whether pixels are numbers in which masks say where colours are."""
        return self.compression in (_MASKS, _ALPHA_MASKS) and self.bits in (16, 32) and any(self.masks[:3])


def usual(data: bytes) -> bytes:
    """Return a BMP as Pillow reads it, or any other file as it is.

    Headers of OS/2, which end where there is nothing more to say, become as long as those of Windows, and of a palette
    that is told to be longer than bytes can count, there is no more than they can.
    """
    if data[:2] != b"BM" or len(data) < 18:
        return data
    start, size = struct.unpack_from("<II", data, 10)
    if 16 <= size < 64 and size not in _HEADERS:
        head = data[18 : 14 + size].ljust(_OLDEST - 4, b"\0")[: _OLDEST - 4]
        start = start and max(0, start + _OLDEST - size)
        data = data[:10] + struct.pack("<II", start, _OLDEST) + head + data[14 + size :]
    if size > 12 and len(data) >= 50 and data[28] <= 8 and struct.unpack_from("<I", data, 46)[0] > 256:
        data = data[:46] + struct.pack("<I", 256) + data[50:]
    return data


def header(data: bytes) -> Header | None:
    """Return the header of a BMP; None where it is none, or older than all that is read here."""
    if data[:2] != b"BM" or len(data) < 54:
        return None
    start, size, width, height, _, bits, compression, _, _, _, used = struct.unpack_from("<IIiiHHIIiiI", data, 10)
    if size < _OLDEST or width <= 0 or height == 0 or bits not in (4, 8, 16, 32):
        return None
    masks = struct.unpack("<IIII", data[54:70].ljust(16, b"\0"))
    if size < 56 and compression != _ALPHA_MASKS:
        masks = (*masks[:3], 0)
    count = min(used or 1 << bits, 256) if bits <= 8 else 0
    colours = np.frombuffer(data[14 + size : 14 + size + 4 * count], np.uint8)
    palette = colours[: len(colours) // 4 * 4].reshape(-1, 4)[:, 2::-1]
    behind = 14 + size + 4 * count + ({_MASKS: 12, _ALPHA_MASKS: 16}.get(compression, 0) if size == _OLDEST else 0)
    return Header(width, abs(height), height < 0, bits, compression, start or behind, masks, palette)


def run_lengths(data: bytes, said: Header) -> Image.Image:
    """Return a run-length coded picture in RGBA; where the file says nothing of a pixel, nothing is seen.

    Raises:
        ValueError: it ends before it says that it does, or is made of very many runs.
    """
    index = np.zeros((said.height, said.width), np.uint8)
    there = np.zeros((said.height, said.width), bool)
    four, at, x, y = said.bits == 4, said.start, 0, 0
    for _ in range(_RUNS):
        if y >= said.height:
            break
        if at + 2 > len(data):
            if there.all():  # and nothing but the end is missing
                break
            raise ValueError("it is cut off")
        count, value = data[at], data[at + 1]
        at += 2
        if count:
            values: Sequence[int] = [value >> 4, value & 15] * (count // 2 + 1) if four else [value] * count
            _put(index, there, x, y, values[:count])
            x += count
        elif value == 0:
            x, y = 0, y + 1
        elif value == 1:
            break
        elif value == 2:
            if at + 2 > len(data):
                raise ValueError("it is cut off")
            x, y, at = x + data[at], y + data[at + 1], at + 2
        else:
            size = (value + 1) // 2 if four else value
            if at + size > len(data):
                raise ValueError("it is cut off")
            raw = data[at : at + size]
            values = [half for byte in raw for half in (byte >> 4, byte & 15)] if four else list(raw)
            _put(index, there, x, y, values[:value])
            x, at = x + value, at + size + size % 2
    else:
        raise ValueError("it is made of very many runs")
    palette = np.zeros((256, 4), np.uint8)
    palette[: len(said.palette), :3], palette[:, 3] = said.palette, 255
    pixels = palette[index]
    pixels[~there] = 0
    return Image.fromarray(pixels if said.top_down else np.ascontiguousarray(pixels[::-1]))


def _put(index: npt.NDArray[np.uint8], there: npt.NDArray[np.bool_], x: int, y: int, values: Sequence[int]) -> None:
    """Write a run, as far as its row goes."""
    room = max(0, min(len(values), index.shape[1] - x))
    index[y, x : x + room] = values[:room]
    there[y, x : x + room] = True


def unmasked(data: bytes, said: Header) -> Image.Image:
    """Return a picture of masked pixels, in RGBA where there is a mask of opacity, else in RGB.

    Raises:
        ValueError: it is cut off, or its masks are none.
    """
    kind = np.dtype(f"<u{said.bits // 8}")
    stride = (said.width * said.bits + 31) // 32 * 4
    if said.start + stride * (said.height - 1) + said.width * kind.itemsize > len(data):
        raise ValueError("it is cut off")
    rows = np.ndarray((said.height, said.width), kind, data, said.start, (stride, kind.itemsize))
    masks = said.masks if said.masks[3] else said.masks[:3]
    tables = [_table(mask) for mask in masks]
    pixels = np.empty((said.height, said.width, len(masks)), np.uint8)
    shown = pixels if said.top_down else pixels[::-1]
    high = max(1, _BLOCK // said.width)
    for top in range(0, said.height, high):
        for left in range(0, said.width, _BLOCK):
            block = np.s_[top : top + high, left : left + _BLOCK]
            values = rows[block].astype(np.uint32)
            for i, (mask, (shift, table)) in enumerate(zip(masks, tables, strict=True)):
                shown[block][..., i] = table[(values & np.uint32(mask)) >> np.uint32(shift)]
    return Image.fromarray(pixels)


def _table(mask: int) -> tuple[int, npt.NDArray[np.uint8]]:
    """Return how far the bits of a mask are from the lowest place, and what they are on the scale 0..255.

    No more than 16 of them count; without any, all is black.

    Raises:
        ValueError: the mask has gaps.
    """
    shift = (mask & -mask).bit_length() - 1 if mask else 0
    most = mask >> shift
    if most & (most + 1):
        raise ValueError("a mask has gaps")
    beyond = max(0, most.bit_length() - 16)
    most >>= beyond
    scaled: npt.NDArray[np.uint8] = np.rint(np.arange(most + 1) * (255.0 / max(1, most))).astype(np.uint8)
    return shift + beyond, scaled

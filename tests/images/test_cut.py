"""Pictures of every accepted format with less in them than they say: refused, or seen as they are whole."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from service.errors import UnprocessableImage, UnsupportedMediaType
from service.images import FORMATS, decode
from service.images.containers.avif import coded
from tests.conftest import encoded
from tests.images.files import chunks

Y, X = np.mgrid[0:48, 0:64]
NOISE = np.random.default_rng(0).integers(0, 20, (48, 64, 3))
PHOTO = Image.fromarray((np.stack([X * 3 + 30, Y * 4 + 20, X + Y + 50], 2) + NOISE).astype(np.uint8))
CLEAR = PHOTO.copy()
CLEAR.putalpha(PHOTO.convert("L"))
FILM = {"save_all": True, "append_images": [PHOTO.rotate(180)]}


def interlaced() -> bytes:
    """Return a PNG of 8 bits RGB of the same picture in seven passes."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    pixels = np.asarray(PHOTO)
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes for row in pixels[y::dy, x::dx])
    head = struct.pack(">IIBBBBB", *PHOTO.size, 8, 2, 0, 0, 1)
    return png([(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def png(parts: list[tuple[bytes, bytes]]) -> bytes:
    pieces = [struct.pack(">I", len(body)) + name + body for name, body in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(one + struct.pack(">I", zlib.crc32(one[4:])) for one in pieces)


PICTURES: dict[str, bytes] = {
    **{f"{kind}": encoded(PHOTO, kind) for kind in FORMATS},
    **{f"BMP {mode}": encoded(CLEAR.convert(mode), "BMP") for mode in ("1", "L", "P", "RGBA")},
    **{f"PNG {mode}": encoded(CLEAR.convert(mode), "PNG") for mode in ("1", "L", "P", "RGBA", "I;16")},
    "PNG interlaced": interlaced(),
    "PNG film": encoded(PHOTO, "PNG", **FILM),
    "GIF interlaced": encoded(PHOTO.convert("P"), "GIF", interlace=1),
    "GIF film": encoded(PHOTO, "GIF", **FILM),
    "WEBP lossless": encoded(PHOTO, "WEBP", lossless=True),
    "WEBP alpha": encoded(CLEAR, "WEBP"),
    "WEBP lossless alpha": encoded(CLEAR, "WEBP", lossless=True),
    "WEBP film": encoded(CLEAR, "WEBP", **FILM),
    "JPEG progressive": encoded(PHOTO, "JPEG", progressive=True),
    "JPEG restarts": encoded(PHOTO, "JPEG", restart_marker_blocks=2),
    "JPEG CMYK": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "MPO": encoded(PHOTO, "MPO", **FILM),
}
if "AVIF" in FORMATS:
    PICTURES |= {"AVIF alpha": encoded(CLEAR, "AVIF", speed=10), "AVIF film": encoded(PHOTO, "AVIF", speed=10, **FILM)}


def read(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, max_bytes=2**22, max_pixels=2**20))


def is_refused_or(whole: np.ndarray, data: bytes) -> bool:
    try:
        found = read(data)
    except (UnprocessableImage, UnsupportedMediaType):
        return True
    np.testing.assert_array_equal(found, whole)
    return False


@pytest.mark.parametrize("name", PICTURES)
def test_a_file_that_is_cut_off_at_every_tenth(name):
    data = PICTURES[name]
    whole = read(data)
    assert whole.shape == (48, 64, 3)
    refused = [is_refused_or(whole, data[: len(data) * tenth // 10]) for tenth in range(1, 10)]
    assert all(refused[:4])  # of a film, the first picture may be whole


def shorter_png(data: bytes, share: Callable[[int], int]) -> bytes:
    parts = list(chunks(data, ">I4s", 8))
    return png([(name, body[: share(len(body))] if name == b"IDAT" else body) for name, body in parts])


def shorter_webp(data: bytes, share: Callable[[int], int], inside: bool = False) -> bytes:
    found = b""
    for name, body in chunks(data, "<4sI", 0 if inside else 12, even=True):
        if name in (b"VP8 ", b"VP8L", b"ALPH"):
            body = body[: share(len(body))]
        if name == b"ANMF":
            body = body[:16] + shorter_webp(body[16:], share, inside=True)
        found += name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    return found if inside else b"RIFF" + struct.pack("<I", 4 + len(found)) + b"WEBP" + found


def shorter_gif(data: bytes, share: Callable[[int], int]) -> bytes:
    """Return a GIF whose first frame has less; it has a table of its own, or the screen has one."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 128 else 0)
    while data[at : at + 1] == b"!":
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    start = at + 11 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 128 else 0)
    body, at = b"", start
    while data[at]:
        body += data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
    body = body[: share(len(body))]
    blocks = b"".join(bytes([len(body[i : i + 255])]) + body[i : i + 255] for i in range(0, len(body), 255))
    return data[:start] + blocks + data[at:]


def shorter_bmp(data: bytes, share: Callable[[int], int]) -> bytes:
    (start,) = struct.unpack_from("<I", data, 10)
    return data[: start + share(len(data) - start)]


def shorter_avif(data: bytes, share: Callable[[int], int]) -> bytes:
    """Return an AVIF of one picture whose last coded piece has less, and says so."""
    start = data.index(b"mdat") + 4
    at = start
    while True:
        size, shift, first = 0, 0, at + 1
        while True:
            size |= (data[first] & 127) << shift
            shift, first = shift + 7, first + 1
            if data[first - 1] < 128:
                break
        if first + size >= len(data):
            break
        at = first + size
    kept = share(size)
    written = bytes(kept >> 7 * i & 127 | (128 if at + 2 + i < first else 0) for i in range(first - at - 1))
    found = data[: at + 1] + written + data[first : first + kept]
    lost = len(data) - len(found)
    head = found[:start].replace(struct.pack(">I", len(data) - start), struct.pack(">I", len(data) - start - lost))
    return head[:-8] + struct.pack(">I", 8 + len(found) - start) + head[-4:] + found[start:]


SHORTER = {"PNG": shorter_png, "WEBP": shorter_webp, "GIF": shorter_gif, "BMP": shorter_bmp, "AVIF": shorter_avif}


@pytest.mark.parametrize(
    "name", [one for one in PICTURES if one.split()[0] in SHORTER and one not in ("AVIF alpha", "AVIF film")]
)
def test_what_has_less_than_it_says_where_its_container_is_in_order(name):
    data, shorter = PICTURES[name], SHORTER[name.split()[0]]
    whole = read(data)
    assert not is_refused_or(whole, shorter(data, lambda size: size))
    assert all(is_refused_or(whole, shorter(data, lambda size: size * tenth // 10)) for tenth in range(10))  # noqa: B023
    if name == "AVIF":
        assert len(coded(shorter(data, lambda size: size // 2))) == 1


def test_every_format_has_one_here():
    assert {name.split()[0] for name in PICTURES} >= set(FORMATS)

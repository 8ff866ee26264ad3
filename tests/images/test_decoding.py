"""Bytes to pictures, held against what each format's definition says of them."""

import random
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from service.errors import TooLarge, UnprocessableImage, UnsupportedMediaType
from service.images.decoding import FORMATS, decode
from tests.conftest import encoded, photograph

PHOTO = photograph("rocket").resize((31, 20))


def read(data: bytes, *, max_bytes: int = 2**22, max_pixels: int = 25_000_000) -> Image.Image:
    return decode(data, max_bytes=max_bytes, max_pixels=max_pixels)


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(kind: str) -> None:
    options = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 100, "subsampling": 0},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }.get(kind, {})
    found = read(encoded(PHOTO, kind, **options))
    assert (found.mode, found.size) == ("RGB", PHOTO.size)
    limit = {"JPEG": 6, "GIF": 60, "AVIF": 4}.get(kind, 0)
    assert np.abs(np.asarray(found, int) - np.asarray(PHOTO)).max() <= limit


@pytest.mark.parametrize("kind", ["ICO", "PPM", "TGA", "PCX", "SGI"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="send one of PNG, JPEG, WEBP, GIF, BMP"):
        read(encoded(PHOTO, kind))


def test_16_bits_are_scaled_and_not_clipped() -> None:
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    found = np.asarray(read(encoded(Image.fromarray(values))))
    expected = np.rint(values / 65535 * 255)
    assert (found == expected[..., None]).all()
    dark = np.full((4, 4), 200, np.uint16)  # all below 256, and still nearly black
    assert np.asarray(read(encoded(Image.fromarray(dark)))).max() == 1


def test_transparency_lies_on_white() -> None:
    half = read(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 128))))
    assert half.getpixel((0, 0)) == pytest.approx((255, 127, 127), abs=1)
    assert read(encoded(Image.new("LA", (2, 2), (0, 0)))).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_colours() -> None:
    for cmyk, rgb in (((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0)), ((0, 0, 0, 0), (255, 255, 255))):
        found = read(encoded(Image.new("CMYK", (8, 8), cmyk), "JPEG", quality=100)).getpixel((4, 4))
        assert found == pytest.approx(rgb, abs=3)


# EXIF 2.32, 4.6.4 A: which side of the upright picture the first row and the first column of the stored one are.
STORED = {
    1: [[1, 2, 3], [4, 5, 6]],  # top, left
    2: [[3, 2, 1], [6, 5, 4]],  # top, right
    3: [[6, 5, 4], [3, 2, 1]],  # bottom, right
    4: [[4, 5, 6], [1, 2, 3]],  # bottom, left
    5: [[1, 4], [2, 5], [3, 6]],  # left, top
    6: [[3, 6], [2, 5], [1, 4]],  # right, top
    7: [[6, 3], [5, 2], [4, 1]],  # right, bottom
    8: [[4, 1], [5, 2], [6, 3]],  # left, bottom
    9: [[1, 2, 3], [4, 5, 6]],  # there is no 9: as it is
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(np.array(STORED[orientation], np.uint8) * 40)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        found = np.asarray(read(encoded(stored.convert("RGB"), kind, exif=exif, **options)))
        assert (found[..., 0] // 40).tolist() == STORED[1]


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0rubbish", b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01"])
def test_damaged_exif_is_no_damaged_picture(exif: bytes) -> None:
    assert read(encoded(PHOTO, "JPEG", exif=exif)).size == PHOTO.size


# Limits


@pytest.mark.parametrize("size", [(5001, 5000), (15_000, 15_000), (50_000, 50_000)])
def test_pixels_are_counted_before_any_is_decoded(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded")

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(TooLarge, match="at most 25,000,000 are accepted; scale it down"):
        read(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""))


def test_limits_are_inclusive() -> None:
    data = encoded(PHOTO)
    assert read(data, max_bytes=len(data), max_pixels=620).size == (31, 20)
    with pytest.raises(TooLarge, match="31 x 20 = 620 pixels and at most 619"):
        read(data, max_pixels=619)
    with pytest.raises(TooLarge, match=f"{len(data):,} bytes and at most {len(data) - 1:,}"):
        read(data, max_bytes=len(data) - 1)


# Anything at all

MODES = {"PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "JPEG": ("L", "RGB", "CMYK"), "WEBP": ("RGB", "RGBA")}


@given(st.data(), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_any_mode_becomes_rgb(data: st.DataObject, width: int, height: int) -> None:
    kind = data.draw(st.sampled_from([*MODES, "GIF", "BMP"]))
    mode = data.draw(st.sampled_from(MODES.get(kind, ("1", "L", "P", "RGB"))))
    found = read(encoded(Image.new(mode, (width, height), 1), kind))
    assert (found.mode, found.size) == ("RGB", (width, height))


def test_damage_raises_only_what_callers_are_told() -> None:
    chance, outcomes = random.Random(0), Counter[str]()
    for number in range(300):
        whole = encoded(PHOTO, FORMATS[number % len(FORMATS)])
        damaged = bytearray(whole[: chance.randint(len(whole) // 2, len(whole))] if chance.random() < 0.5 else whole)
        for _ in range(chance.randint(0, 8)):
            damaged[chance.randrange(min(chance.choice((100, 2**12)), len(damaged)))] ^= chance.randint(1, 255)
        try:
            found = read(bytes(damaged))
        except (TooLarge, UnprocessableImage, UnsupportedMediaType):
            outcomes["refused"] += 1
        else:
            outcomes["decoded"] += 1
            assert found.mode == "RGB"
            assert np.asarray(found).shape == (found.height, found.width, 3)
            assert min(found.size) > 0
    assert min(outcomes.values()) > 50

"""Bytes to pictures to inputs, held against torchvision's own transforms and against geometry."""

import random
import struct
import zlib
from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from torchvision import transforms as tv

from service.decoding import FORMATS, decode
from service.errors import TooLarge, UnprocessableImage, UnsupportedMediaType
from service.images import Transform, prepare, to_input
from tests.conftest import encoded, photograph

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
sweep = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def read(data: bytes, *, max_bytes: int = 2**22, max_pixels: int = 25_000_000) -> Image.Image:
    return decode(data, max_bytes=max_bytes, max_pixels=max_pixels)


# To the model's input

PHOTOS = {
    "landscape": photograph("chelsea"),  # 451 x 300
    "portrait": photograph("chelsea").transpose(Image.Transpose.ROTATE_90),
    "square": photograph("astronaut"),  # 512 x 512
    "odd": photograph("astronaut").crop((3, 5, 336, 506)),
    "strip": photograph("coffee").crop((100, 100, 197, 399)),
    "small": photograph("rocket").resize((31, 20)),
    "exact": photograph("coffee").resize((64, 64)),
}


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize(
    ("resize", "crop", "how"),
    [
        (256, (224, 224), "bilinear"),
        (224, (224, 224), "bicubic"),
        (97, (96, 81), "bilinear"),
        (64, (64, 64), "nearest"),
        (64, (64, 99), "bilinear"),  # wider than a portrait: padded
        (64, (65, 68), "bilinear"),
    ],
)
def test_input_is_torchvisions(photo: str, resize: int, crop: tuple[int, int], how: str) -> None:
    theirs = tv.Compose(
        [tv.Resize(resize, tv.InterpolationMode(how)), tv.CenterCrop(crop), tv.ToTensor(), tv.Normalize(MEAN, STD)]
    )
    transform = Transform(resize, crop, MEAN, STD, how)
    expected = theirs(PHOTOS[photo])[None]
    ours = to_input(prepare(PHOTOS[photo], transform).seen, transform)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (90, 90), (250, 20)])
@pytest.mark.parametrize(("resize", "crop"), [(64, (64, 64)), (80, (64, 48)), (32, (32, 32))])
def test_box_is_where_the_crop_lies(size: tuple[int, int], resize: int, crop: tuple[int, int]) -> None:
    width, height = size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    ramp = np.stack([x * 255 / width, y * 255 / height, 0 * x], 2)  # a pixel's colour is its place
    picture = prepare(Image.fromarray(ramp.astype(np.uint8)), Transform(resize, crop, MEAN, STD))
    x0, y0, x1, y1 = picture.box
    seen = np.asarray(picture.seen, np.float64)
    rows, columns = (np.arange(n)[2:-2] + 0.5 for n in crop)  # at the borders resampling has only one side
    place_x, place_y = x0 + columns * (x1 - x0) / crop[1] - 0.5, y0 + rows * (y1 - y0) / crop[0] - 0.5
    np.testing.assert_allclose(seen[2:-2, 2:-2, 0].mean(0), place_x * 255 / width, atol=1.2)
    np.testing.assert_allclose(seen[2:-2, 2:-2, 1].mean(1), place_y * 255 / height, atol=1.2)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 64), st.integers(16, 64), st.integers(0, 40))
@sweep
def test_any_size_is_prepared(width: int, height: int, crop_h: int, crop_w: int, margin: int) -> None:
    assume(max(width, height) <= 100 * min(width, height))
    transform = Transform(min(crop_h, crop_w) + margin, (crop_h, crop_w), MEAN, STD)
    image = Image.new("RGB", (width, height), "white")
    picture = prepare(image, transform)
    assert picture.original is image
    assert picture.seen.size == (crop_w, crop_h)
    x0, y0, x1, y1 = picture.box
    scale = min(width, height) / transform.resize
    # As large as the crop, and in the middle, but for the rounding to whole pixels of the scaled picture.
    assert (x1 - x0, y1 - y0) == pytest.approx((crop_w * scale, crop_h * scale), rel=1 / transform.resize)
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((width / 2, height / 2), abs=scale)
    assert np.asarray(picture.seen)[crop_h // 2, crop_w // 2].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("long", "short", "fits"), [(100, 1, True), (101, 1, False), (700, 7, True), (701, 7, False)])
def test_strips_are_refused(long: int, short: int, fits: bool) -> None:
    for size in ((long, short), (short, long)):
        said = f"{size[0]} x {size[1]}, more than 100 times"
        with nullcontext() if fits else pytest.raises(UnprocessableImage, match=said):
            assert prepare(Image.new("RGB", size), Transform(16, (16, 16), MEAN, STD)).seen.size == (16, 16)


# Decoding


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(kind: str) -> None:
    photo = PHOTOS["small"]
    options = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 100, "subsampling": 0},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }.get(kind, {})
    found = read(encoded(photo, kind, **options))
    assert (found.mode, found.size) == ("RGB", photo.size)
    limit = {"JPEG": 6, "GIF": 60, "AVIF": 4}.get(kind, 0)
    assert np.abs(np.asarray(found, int) - np.asarray(photo)).max() <= limit


@pytest.mark.parametrize("kind", ["ICO", "PPM", "TGA", "PCX", "SGI"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="send one of PNG, JPEG, WEBP, GIF, BMP"):
        read(encoded(PHOTOS["small"], kind))


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
    assert read(encoded(PHOTOS["small"], "JPEG", exif=exif)).size == PHOTOS["small"].size


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
    data = encoded(PHOTOS["small"])
    assert read(data, max_bytes=len(data), max_pixels=620).size == (31, 20)
    with pytest.raises(TooLarge, match="31 x 20 = 620 pixels and at most 619"):
        read(data, max_pixels=619)
    with pytest.raises(TooLarge, match=f"{len(data):,} bytes and at most {len(data) - 1:,}"):
        read(data, max_bytes=len(data) - 1)


# Anything at all

MODES = {"PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "JPEG": ("L", "RGB", "CMYK"), "WEBP": ("RGB", "RGBA")}


@given(st.data(), st.integers(1, 40), st.integers(1, 40))
@sweep
def test_any_mode_becomes_rgb(data: st.DataObject, width: int, height: int) -> None:
    kind = data.draw(st.sampled_from([*MODES, "GIF", "BMP"]))
    mode = data.draw(st.sampled_from(MODES.get(kind, ("1", "L", "P", "RGB"))))
    found = read(encoded(Image.new(mode, (width, height), 1), kind))
    assert (found.mode, found.size) == ("RGB", (width, height))


def test_damage_raises_only_what_callers_are_told() -> None:
    chance, outcomes = random.Random(0), Counter[str]()
    for number in range(300):
        whole = encoded(PHOTOS["small"], FORMATS[number % len(FORMATS)])
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

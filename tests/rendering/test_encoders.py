"""Drawings and arrays as files: what is read back is what was written, or looks like it."""

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from service.errors import InvalidParameter
from service.rendering import encoders, table
from tests.conftest import photograph

RAMP = np.linspace(-1, 3, 16, dtype=np.float32).reshape(4, 4)
PHOTO = photograph("chelsea")
FLAT = Image.fromarray(np.kron(np.eye(40, dtype=np.uint8), np.ones((9, 9), np.uint8)) * 200)
CLEAR = PHOTO.convert("RGBA")
CLEAR.putalpha(Image.linear_gradient("L").resize(PHOTO.size))
ROWS = 4 * 2**20 // (3 * 2000)  # that are compressed at a time
PICTURES = {
    "photograph": PHOTO,
    "transparent": CLEAR,
    "grey": PHOTO.convert("L"),
    "palette": PHOTO.quantize(16),
    "repeating": FLAT.convert("RGB"),
    "one pixel": Image.new("RGB", (1, 1), "red"),
    "column": PHOTO.crop((0, 0, 1, 300)),
    "whole bands": PHOTO.resize((2000, 2 * ROWS)),
    "a line more": PHOTO.resize((2000, 2 * ROWS + 1)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_png_is_lossless(name: str) -> None:
    image = PICTURES[name]
    found = Image.open(io.BytesIO(encoders.png(image)))
    assert (found.format, found.mode, found.size) == ("PNG", image.mode, image.size)
    assert found.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


def test_colours_that_are_partly_clear_are_no_palette() -> None:
    """A palette of the standard is opaque without a further list: what is not, is written in full."""
    image = PHOTO.resize((60, 40)).quantize(16)
    image.info["transparency"] = 3
    assert Image.open(io.BytesIO(encoders.png(image))).mode == "RGB"


def test_a_map_of_256_colours_takes_a_third_of_the_bytes() -> None:
    levels = Image.linear_gradient("L")
    levels.putpalette(table("inferno").tobytes())
    found = Image.open(io.BytesIO(encoders.png(levels)))
    assert (found.mode, found.convert("RGB").tobytes()) == ("P", levels.convert("RGB").tobytes())
    assert len(encoders.png(levels)) < len(encoders.png(levels.convert("RGB"))) / 2
    assert encoders.jpeg(levels) == encoders.jpeg(levels.convert("RGB"))
    assert encoders.webp(levels) == encoders.webp(levels.convert("RGB"))


def test_png_is_as_the_standard_says() -> None:
    """Chunks with lengths and checksums, and nothing else; Pillow does not look at all of them."""
    data = encoders.png(PHOTO)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, names = 8, []
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + body)
        names.append(name)
        at += 12 + length
    assert names == [b"IHDR", b"IDAT", b"IEND"]


@pytest.mark.parametrize("name", PICTURES)
def test_png_is_no_larger_than_pillows(name: str) -> None:
    buffer = io.BytesIO()
    plain = PICTURES[name] if name != "palette" else PICTURES[name].convert("RGB")
    plain.save(buffer, "PNG", compress_level=1)
    assert len(encoders.png(PICTURES[name])) <= 1.1 * len(buffer.getvalue()) + 100


@pytest.mark.parametrize(("encode", "kind"), [(encoders.jpeg, "JPEG"), (encoders.webp, "WEBP")])
def test_small_files_look_the_same(encode, kind: str) -> None:
    data = encode(PHOTO)
    found = Image.open(io.BytesIO(data))
    assert (found.format, found.size) == (kind, PHOTO.size)
    assert np.abs(np.asarray(found.convert("RGB"), int) - np.asarray(PHOTO)).mean() < 4
    assert len(data) < len(encoders.png(PHOTO)) / 3


def test_transparency_is_kept_or_laid_over_white() -> None:
    half = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    half.paste((0, 0, 0, 0), (0, 0, 32, 64))
    shown = Image.open(io.BytesIO(encoders.jpeg(half)))
    assert min(shown.getpixel((4, 32))) > 250
    assert shown.getpixel((60, 32))[0] > 250 > 5 > shown.getpixel((60, 32))[1]
    kept = Image.open(io.BytesIO(encoders.webp(half))).convert("RGBA")
    assert (kept.getpixel((4, 32))[3], kept.getpixel((60, 32))[3]) == (0, 255)


@pytest.mark.parametrize(("encode", "longest"), [(encoders.webp, 16_383), (encoders.jpeg, 65_500)])
def test_what_a_kind_of_file_cannot_hold_is_refused(encode, longest: int) -> None:
    assert Image.open(io.BytesIO(encode(Image.new("RGB", (longest, 1))))).size == (longest, 1)
    with pytest.raises(InvalidParameter, match="ask for image/png, or for size: input") as caught:
        encode(Image.new("RGB", (1, longest + 1)))
    assert caught.value.errors[0].pointer == "/output"


@pytest.mark.parametrize("values", [RAMP, RAMP.T, RAMP[::2], RAMP.reshape(1, 2, 8), RAMP[:0], RAMP.astype(">f4")])
def test_npy(values: npt.NDArray[np.float32]) -> None:
    loaded = np.load(io.BytesIO(encoders.npy(values)), allow_pickle=False)
    assert loaded.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(loaded, values)

"""Bytes to pictures: what viewers show is what is decoded, and what cannot be shown is named."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile
from PIL.PngImagePlugin import PngInfo

from service.errors import TooLarge, UnprocessableImage, UnsupportedMediaType
from service.images import decoding
from service.images.decoding import FORMATS, decode
from tests.conftest import encoded, photograph

sweep = settings(max_examples=100, deadline=None, derandomize=True, database=None)
PHOTOS = {"small": photograph("rocket").resize((31, 20))}


def read(data: bytes, *, max_bytes: int = 2**22, max_pixels: int = 25_000_000, **more: object) -> Image.Image:
    return decode(data, max_bytes=max_bytes, max_pixels=max_pixels, **more)  # type: ignore[arg-type]


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
    large = stored.resize((16 * stored.width, 16 * stored.height), Image.Resampling.NEAREST)  # a block each, of JPEG
    found = np.asarray(read(encoded(large.convert("RGB"), "JPEG", exif=exif, quality=95)), int)[8::16, 8::16, 0]
    assert np.rint(found / 40).astype(int).tolist() == STORED[1]


XMP = b'<rdf:RDF xmlns:rdf="r"><rdf:Description xmlns:tiff="t" tiff:Orientation="6"/></rdf:RDF>'


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("exif", [False, True])
def test_xmp_turns_no_picture(kind: str, exif: bool) -> None:
    """No browser reads it; nor does EXIF that has no orientation make it count."""
    texts, maker = PngInfo(), Image.Exif()
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    maker[271] = "maker"
    told = {"PNG": {"pnginfo": texts}, "TIFF": {"tiffinfo": {700: XMP}}}.get(kind, {"xmp": XMP})
    found = read(encoded(PHOTOS["small"], kind, **told, **{"exif": maker} if exif and kind != "TIFF" else {}))
    assert found.size == PHOTOS["small"].size


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


@pytest.mark.parametrize("pixels", [200_000_000, 400_000_000])
def test_a_raised_limit_holds_beyond_pillows_own(pixels: int) -> None:
    """A one-bit picture of 180 million pixels is small: whoever allows so many gets it."""
    data = encoded(Image.new("1", (20_000, 9_000)))
    assert read(data, max_pixels=pixels).size == (20_000, 9_000)
    with pytest.raises(TooLarge, match="180,000,000 pixels and at most 179,999,999"):
        read(data, max_pixels=179_999_999)


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_a_long_row_is_read_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces it would take time by the square of its length: 23 s for one of 64 MB."""
    row = Image.new("RGB", (1_300_000, 1), "red")
    data = encoded(row, kind)
    monkeypatch.setattr(decoding, "_READS", 30)
    assert read(data).size == row.size


# As viewers show it


def test_how_a_picture_is_stored_does_not_show() -> None:
    """Progressive, with coarse colours, with a profile that says what is so anyway, with something behind its end."""
    photo = photograph("chelsea")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind, how in (("JPEG", {"quality": 95, "subsampling": "4:4:4"}), ("PNG", {})):
        plain = encoded(photo, kind, **how)
        pixels = np.asarray(read(plain), int)
        for other in (plain + b"trailing bytes", plain + bytes(3), encoded(photo, kind, icc_profile=profile, **how)):
            assert np.array_equal(np.asarray(read(other)), pixels)
    for more in ({"progressive": True}, {"optimize": True}, {"subsampling": "4:2:0"}, {"restart_marker_rows": 1}):
        found = np.asarray(read(encoded(photo, "JPEG", **{"quality": 95, "subsampling": "4:4:4"} | more)), int)
        jpeg = np.asarray(read(encoded(photo, "JPEG", quality=95, subsampling="4:4:4")), int)
        assert np.abs(found - jpeg).mean() < (3 if "subsampling" in more else 1e-9)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [1, 2])
def test_jpeg_without_its_end(progressive: bool, missing: int) -> None:
    data = encoded(photograph("chelsea"), "JPEG", progressive=progressive, quality=90)
    assert data.endswith(b"\xff\xd9")
    found = read(data[:-missing])
    assert np.array_equal(np.asarray(found), np.asarray(read(data)))


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_jpeg_that_is_cut_off_stays_refused(share: float) -> None:
    data = encoded(photograph("chelsea"), "JPEG", quality=90)
    with pytest.raises(UnprocessableImage, match="damaged or cut off: save it again"):
        read(data[: int(share * len(data))])


def _bmp(alpha: int) -> bytes:
    """Return a 32-bit BMP of four bytes a pixel, red, as Windows' clipboard writes it."""
    pixels = bytes((0, 0, 255, alpha)) * (8 * 8)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 124, 8, 8, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks + bytes(124 - 56)
    return b"BM" + struct.pack("<IHHI", 14 + 124 + len(pixels), 0, 0, 14 + 124) + header + pixels


def test_bmp_whose_alpha_is_zero_throughout_is_opaque() -> None:
    assert read(_bmp(0)).getpixel((4, 4)) == (255, 0, 0)
    assert read(_bmp(255)).getpixel((4, 4)) == (255, 0, 0)
    assert read(_bmp(128)).getpixel((4, 4)) == pytest.approx((255, 127, 127), abs=1)
    transparent = encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))  # a PNG that says so is transparent
    assert read(transparent).getpixel((4, 4)) == (255, 255, 255)


def test_alpha_is_kept_where_it_is_asked_for() -> None:
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    assert read(encoded(half), alpha=True).getpixel((4, 4)) == (255, 0, 0, 128)
    assert read(encoded(half.convert("RGB")), alpha=True).mode == "RGB"
    assert read(_bmp(0), alpha=True).mode == "RGB"


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_tiff(compression: str, mode: str) -> None:
    photo = photograph("chelsea").convert(mode)
    found = read(encoded(photo, "TIFF", compression=compression))
    difference = np.abs(np.asarray(found, int) - np.asarray(photo.convert("RGB"), int))
    assert difference.mean() < (4 if compression == "jpeg" else 1e-9)


def test_first_page_and_orientation_of_a_tiff() -> None:
    first, second = Image.new("RGB", (6, 4), "red"), Image.new("RGB", (6, 4), "blue")
    pages = encoded(first, "TIFF", save_all=True, append_images=[second])
    assert read(pages).getpixel((1, 1)) == (255, 0, 0)
    exif = Image.Exif()
    exif[274] = 6
    assert read(encoded(first, "TIFF", exif=exif)).size == (4, 6)


def test_tiff_of_very_many_parts_is_refused_before_they_are_read() -> None:
    strips = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", 1) + struct.pack("<HHII", 273, 4, 4_000_000, 26)
    with pytest.raises(UnprocessableImage, match="made of very many small parts"):
        read(strips + bytes(1000))


# What is no picture, or no accepted one


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (bytes(128) + b"DICM" + bytes(9), "look like a DICOM file; export the picture from it as PNG"),
        (b"<!DOCTYPE html><html>", "look like an HTML page; send the picture that it shows"),
        (b"%PDF-1.7", "look like a PDF document"),
        (b"<?xml version='1.0'?><svg xmlns='x'/>", "look like an SVG drawing"),
        (b"\0\0\0\x0cjP  \r\n", "look like a JPEG 2000 picture"),
        (b"8BPS", "look like a Photoshop file"),
        (b"\0\0\0\x18ftypmp42", "look like a film or a picture of an unknown kind"),
        (b"PK\x03\x04", "look like a zip archive; send one picture of it"),
        (b"\x89PNG\r\n\x1a\n", "begin as PNG does, and are damaged or cut off"),
        (b"RIFF\x04\0\0\0WEBP", "begin as WEBP does, and are damaged or cut off"),
        (b"II*\0\x08\0\0\0\0\0", "begin as TIFF does, .*uncommon kind .*: save it with 8 or 16 bits, grey or in RGB"),
    ],
)
def test_what_bytes_look_like_is_named(data: bytes, says: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=f"{says}.*; send one of PNG, JPEG"):
        read(data)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)


def test_heic_without_its_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "formats", lambda: FORMATS)
    with pytest.raises(
        UnsupportedMediaType,
        match=r"look like a HEIC picture; this server reads no HEIC: install heatlens\[heif\] on it, or save",
    ):
        read(HEIC)


def test_damaged_heic() -> None:
    with pytest.raises((UnsupportedMediaType, UnprocessableImage)):
        read(HEIC)


# Anything at all

MODES = {"PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "JPEG": ("L", "RGB", "CMYK"), "WEBP": ("RGB", "RGBA")}


@given(st.data(), st.integers(1, 40), st.integers(1, 40))
@sweep
def test_any_mode_becomes_rgb(data: st.DataObject, width: int, height: int) -> None:
    kind = data.draw(st.sampled_from([*MODES, "GIF", "BMP"]))
    mode = data.draw(st.sampled_from(MODES.get(kind, ("1", "L", "P", "RGB"))))
    found = read(encoded(Image.new(mode, (width, height), 1), kind))
    assert (found.mode, found.size) == ("RGB", (width, height))


@given(st.data())
@sweep
def test_damage_raises_only_what_callers_are_told(data: st.DataObject) -> None:
    whole = encoded(PHOTOS["small"], data.draw(st.sampled_from(FORMATS)))
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for at in data.draw(st.lists(st.integers(0, 100) | st.integers(0, 2**12), max_size=8)):
        if at < len(damaged):
            damaged[at] ^= data.draw(st.integers(1, 255))
    try:
        found = read(bytes(damaged))
    except (TooLarge, UnprocessableImage, UnsupportedMediaType):
        found = read(whole)
    assert found.mode == "RGB"
    assert min(found.size) > 0
    assert np.asarray(found).shape == (found.height, found.width, 3)


def test_jpeg_of_12_bits_is_named() -> None:
    data = bytearray(encoded(PHOTOS["small"], "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(UnprocessableImage, match="JPEG of 12 bits a colour; save it as one of 8, or as PNG"):
        read(bytes(data))

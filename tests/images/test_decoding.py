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
from service.images.decoding import FORMATS, decode, warnings_of
from tests.conftest import encoded, photograph
from tests.images.files import tiff

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


# More than 8 bits


def grey16(values: object) -> bytes:
    return encoded(Image.fromarray(np.asarray(values, np.uint16)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_window_over_12_bits(kind: str) -> None:
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    found = np.asarray(read(encoded(Image.fromarray(values), kind), window=(0, 4095)))
    np.testing.assert_array_equal(found[..., 0], np.rint(values / 4095 * 255))
    low, high = 1000, 2000  # what lies outside is black or white
    cut = np.asarray(read(encoded(Image.fromarray(values), kind), window=(low, high)))[..., 0]
    np.testing.assert_array_equal(cut, np.rint(np.clip((values - low * 1.0) / (high - low), 0, 1) * 255))


def test_window_leaves_8_bits_alone() -> None:
    photo = PHOTOS["small"]
    assert np.array_equal(np.asarray(read(encoded(photo), window=(0, 4095))), np.asarray(photo))


def test_dark_16_bits_are_warned_of() -> None:
    ((warning),) = warnings_of(read(grey16([[0, 4095]])))
    assert "16 bits and values up to 4095 only, and is seen almost black" in warning
    assert "window = [low, high]" in warning
    assert warnings_of(read(grey16([[0, 2**14]]))) == ()
    assert warnings_of(read(grey16([[0, 4095]]), window=(0, 4095))) == ()
    assert warnings_of(read(encoded(PHOTOS["small"]))) == ()


@pytest.mark.parametrize(
    ("values", "shown", "says"),
    [
        ([[0.0, 0.5, 1.0]], [0, 128, 255], "floating-point values 0 to 1; 0 to 1 are shown"),
        ([[0.0, 51.0, 255.0]], [0, 51, 255], "floating-point values 0 to 255; 0 to 255 are shown"),
        ([[0.0, float("nan"), 1.0]], [0, 0, 255], "floating-point values 0 to 1"),
    ],
)
def test_floating_point_tiff(values: list[list[float]], shown: list[int], says: str) -> None:
    found = read(encoded(Image.fromarray(np.asarray(values, np.float32)), "TIFF"))
    assert np.asarray(found)[0, :, 0].tolist() == pytest.approx(shown, abs=1)
    assert says in warnings_of(found)[0]


def test_values_below_zero_are_warned_of() -> None:
    """Hounsfield units, as a scanner's export has them."""
    values = np.asarray([[-1000, 0, 3000]], np.int32)
    found = read(encoded(Image.fromarray(values), "TIFF"))
    assert "values -1000 to 3000; those below 0 are shown black" in warnings_of(found)[0]
    windowed = read(encoded(Image.fromarray(values), "TIFF"), window=(-1000, 3000))
    assert np.asarray(windowed)[0, :, 0].tolist() == [0, 64, 255]


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


def colours16(values: np.ndarray, kind: int) -> bytes:
    """Return a PNG of 16 bits a value: 2 RGB, 4 grey with opacity, 6 RGBA."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    h, w = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", [2, 6])
def test_a_window_over_colours_of_12_bits(kind: int) -> None:
    values = np.arange(4096 * 3).reshape(64, 64, 3) % 4096
    sent = values if kind == 2 else np.concatenate([values, np.full((64, 64, 1), 65_535)], 2)
    data = colours16(sent, kind)
    found = read(data, window=(0, 4095))
    np.testing.assert_array_equal(np.asarray(found), np.rint(values.astype(np.float32) / 4095 * 255))
    assert warnings_of(found) == ()
    ((warning,),) = (warnings_of(read(data)),)
    assert "16 bits and no value above 4095, and is seen almost black" in warning
    assert warnings_of(read(colours16(sent * 16, kind))) == ()


def test_a_window_over_grey_with_opacity() -> None:
    values = np.arange(4096).reshape(64, 64)
    data = colours16(np.stack([values, np.full((64, 64), 65_535)], 2), 4)
    for low, high in ((0, 4095), (1000, 2000)):
        found = np.asarray(read(data, window=(low, high)))
        expected = np.rint(np.clip((values - low).astype(np.float32) / (high - low), 0, 1) * 255)
        np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, 2))
    assert "16 bits and no value above 4095" in warnings_of(read(data))[0]


@pytest.mark.parametrize("kind", [4, 6])
def test_what_is_clear_stays_clear_under_a_window(kind: int) -> None:
    values = np.full((4, 4, kind - 2), 2000)
    values[..., -1] = np.where(np.arange(4) < 2, 0, 65_535)
    found = np.asarray(read(colours16(values, kind), window=(0, 2000), alpha=True))
    assert found[..., 3].tolist() == [[0, 0, 255, 255]] * 4
    assert (found[:, 2:, :3] == 255).all()


def test_jpeg_of_12_bits_is_named() -> None:
    data = bytearray(encoded(PHOTOS["small"], "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(UnprocessableImage, match="JPEG of 12 bits a colour; save it as one of 8, or as PNG"):
        read(bytes(data))


def tiff16(values: np.ndarray, order: str, **more: int) -> bytes:
    """Return a TIFF of RGB in 16 bits: its directory, its bits a value, its one strip."""
    h, w, _ = values.shape
    mark, raw = {"<": b"II*\0", ">": b"MM\0*"}[order], values.astype(f"{order}u2").tobytes()
    at = 8 + 2 + 12 * (9 + len(more)) + 4
    shorts = {256: w, 257: h, 259: 1, 262: 2, 277: 3, 278: h} | {int(tag[1:]): value for tag, value in more.items()}
    entries = {tag: struct.pack(f"{order}HHIH2x", tag, 3, 1, value) for tag, value in shorts.items()}
    entries[258] = struct.pack(f"{order}HHII", 258, 3, 3, at)
    entries[273] = struct.pack(f"{order}HHII", 273, 4, 1, at + 6)
    entries[279] = struct.pack(f"{order}HHII", 279, 4, 1, len(raw))
    listed = b"".join(entry for _, entry in sorted(entries.items()))
    head = mark + struct.pack(f"{order}IH", 8, len(entries)) + listed + struct.pack(f"{order}I3H", 0, 16, 16, 16)
    return head + raw


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [None, "tiff_deflate"])
def test_a_window_over_a_tiff_of_colours_of_12_bits(order: str, packed: str | None) -> None:
    values = np.arange(4096 * 3).reshape(64, 64, 3) % 4096
    data = tiff16(values, order) if packed is None else deflated(values, order)
    found = read(data, window=(0, 4095))
    np.testing.assert_array_equal(np.asarray(found), np.rint(values.astype(np.float32) / 4095 * 255))
    assert "16 bits and no value above 4095" in warnings_of(read(data))[0]


def deflated(values: np.ndarray, order: str) -> bytes:
    """Return the same with its strip compressed, which another library reads."""
    plain = tiff16(values, order)
    at = 8 + 2 + 12 * 9 + 4 + 6
    packed = zlib.compress(plain[at:])
    head = bytearray(plain[:at])
    for i in range(9):
        entry = 10 + 12 * i
        (tag,) = struct.unpack_from(f"{order}H", head, entry)
        if tag == 259:
            struct.pack_into(f"{order}H", head, entry + 8, 8)
        if tag == 279:
            struct.pack_into(f"{order}I", head, entry + 8, len(packed))
    return bytes(head) + packed


@pytest.mark.parametrize("said", [{"_262": 5}, {"_262": 2, "_338": 1}])
def test_deep_colours_over_which_no_window_is_laid_are_warned_of(said: dict[str, int]) -> None:
    """CMYK, and colours that are multiplied with their opacity."""
    data = tiff(np.full((4, 4, 4), 2560, np.uint16)).saying(**said).file()
    assert warnings_of(read(data)) == ()
    assert "TIFF of 16 bits a colour, over which no window is laid" in warnings_of(read(data, window=(0, 4095)))[0]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "form"), [("u1", 1), ("u2", 1), ("i2", 2), ("i4", 2), ("f4", 3)])
def test_a_tiff_of_either_order_of_bytes(kind: str, form: int, order: str, compress: bool) -> None:
    values = np.array([[0, 60, 100, 127]], kind)
    found = np.asarray(read(tiff(values, order, compress=compress).saying(_339=form).file(), window=(0, 255)))
    assert found[..., 0].tolist() == values.tolist()


@pytest.mark.parametrize("window", [None, (0, 255), (50, 150)])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("kind", "order", "form"), [("u2", "<", 1), ("f4", "<", 3), ("f4", ">", 3)])
def test_a_tiff_whose_least_value_is_white(kind: str, order: str, form: int, compress: bool, window: object) -> None:
    """TIFF 6.0, PhotometricInterpretation 0: the same values, the other way round."""
    written = tiff(np.array([[0, 60, 100, 255]], kind), order, compress=compress).saying(_339=form)
    light, dark = (written.saying(_262=least).file() for least in (0, 1))
    found, other = (np.asarray(read(data, window=window), int) for data in (light, dark))
    assert len(np.unique(found)) > 1
    assert np.array_equal(found, 255 - other)
    assert ("almost white" in "".join(warnings_of(read(light)))) == (kind == "u2")


def test_a_tiff_of_grey_that_is_multiplied_with_its_opacity() -> None:
    data = tiff(np.array([[[0, 0], [100, 255], [64, 128]]], np.uint8)).saying(_338=1).file()
    assert np.asarray(read(data, alpha=True))[0].tolist() == [[0, 0, 0, 0], [100] * 3 + [255], [127] * 3 + [128]]


def test_tiff_of_deep_colours_in_planes_of_their_own_is_refused() -> None:
    data = tiff16(np.full((4, 4, 3), 2560), "<", _284=2)
    with pytest.raises(
        UnprocessableImage, match="TIFF of 16 bits a colour, each colour in a plane of its own; save it"
    ):
        read(data)

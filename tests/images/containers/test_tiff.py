"""TIFFs whose strips or tiles have less than they say: none is shown black, or made up, in silence."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from service.errors import UnprocessableImage
from service.images import decode
from service.images.containers.tiff import layout
from tests.conftest import encoded
from tests.images.files import Tiff, tiff

Y, X = np.mgrid[0:80, 0:96]
NOISE = np.random.default_rng(0).integers(0, 20, (80, 96, 3))
PICTURE = (np.stack([X * 2 + 40, Y * 2 + 50, X + Y + 45], 2) + NOISE).astype(np.uint8)
MASK = PICTURE[..., 0] > 150


def read(data: bytes, **more: object) -> np.ndarray:
    return np.asarray(decode(data, max_bytes=2**22, max_pixels=2**20, **more))  # type: ignore[arg-type]


def is_refused_or(whole: np.ndarray, data: bytes) -> bool:
    """Whether a file is refused (True), or shows the whole picture (False); it may do nothing else."""
    try:
        found = read(data)
    except UnprocessableImage:
        return True
    np.testing.assert_array_equal(found, whole)
    return False


def jpegs(tile: int | None = None, rows: int = 32, mode: str = "RGB", quality: int = 90, **options: object) -> Tiff:
    """Return a TIFF of JPEGs, each with tables of its own."""
    picture = Image.fromarray(PICTURE).convert(mode)
    size = (tile or picture.width), (tile or rows)
    boxes = [(x, y) for y in range(0, picture.height, size[1]) for x in range(0, picture.width, size[0])]
    parts = []
    for x, y in boxes:
        box = x, y, x + size[0], y + size[1] if tile else min(y + size[1], picture.height)
        # Colours as they are: what a TIFF calls RGB is RGB in its JPEGs, too.
        more = {"keep_rgb": True} if mode == "RGB" else {}
        parts.append(encoded(picture.crop(box), "JPEG", quality=quality, subsampling=0, **more, **options))
    plain = tiff(np.asarray(picture), tile=tile, rows=rows).saying(_259=7)
    return plain.having(parts)


def faxes(compression: str, rows: int = 32) -> Tiff:
    return Tiff.of(encoded(Image.fromarray(MASK), "TIFF", compression=compression, tiffinfo={278: rows}))


GREY, DEEP = PICTURE[..., 0], PICTURE.astype(np.uint16) * 257
KINDS = {
    "strips": tiff(PICTURE),
    "one strip": tiff(PICTURE, rows=80),
    "tiles": tiff(PICTURE, tile=32),
    "grey tiles": tiff(GREY, tile=32),
    "planes": tiff(PICTURE, planes=True),
    "planes in tiles": tiff(PICTURE, planes=True, tile=32),
    "other order": tiff(PICTURE, ">"),
    "16 bits": tiff(DEEP[..., 0].copy(), ">"),
    "16 bits in tiles": tiff(DEEP, "<", tile=32),
    "32 bits": tiff(GREY.astype(np.uint32), rows=16),
    "large": tiff(PICTURE, large=True),
    "deflated": tiff(PICTURE, compress=True),
    "deflated differences": tiff(DEEP, ">", compress=True, differences=True, tile=32),
    "deflated planes": tiff(PICTURE, compress=True, planes=True),
    "large and deflated": tiff(PICTURE, large=True, compress=True),
    "JPEG": jpegs(),
    "JPEG tiles": jpegs(tile=32),
    "grey JPEG": jpegs(mode="L"),
    "grey JPEG tiles": jpegs(tile=32, mode="L"),
    "JPEG of restarts": jpegs(restart_marker_blocks=2),
    **{name: faxes(name) for name in ("group3", "group4")},
    **{
        name: Tiff.of(encoded(Image.fromarray(PICTURE), "TIFF", compression=name, tiffinfo={278: 16}))
        for name in ("tiff_lzw", "packbits")
    },
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Tiff:
    return KINDS[request.param]


@pytest.mark.parametrize("behind", [False, True])
def test_what_is_whole_is_shown(kind, behind):
    found = read(kind.file(behind))
    assert found.shape == (80, 96, 3)
    if len(kind.tags) and kind.numbers(259) in ([1], [8]):
        shown = kind.numbers(258)
        expected = PICTURE if len(shown) == 3 else np.repeat(GREY[..., None], 3, 2)
        np.testing.assert_array_equal(found, expected)


def test_a_file_that_is_cut_off_at_every_tenth(kind):
    files = kind.file(), kind.file(behind=True)
    whole = read(files[0])
    for tenth in range(1, 10):
        data = files[tenth % 2]
        assert is_refused_or(whole, data[: len(data) * tenth // 10])


@pytest.mark.parametrize("which", ["first", "last", "all"])
def test_parts_that_are_cut_off_at_every_tenth(kind, which):
    whole = read(kind.file())
    for tenth in range(10):
        parts = list(kind.parts)
        for i in {"first": [0], "last": [len(parts) - 1], "all": range(len(parts))}[which]:
            parts[i] = parts[i][: len(parts[i]) * tenth // 10]
        assert is_refused_or(whole, kind.having(parts).file(behind=tenth % 2 == 0))


def test_fewer_parts_than_rows_need(kind):
    whole = read(kind.file())
    for count in range(1, len(kind.parts)):
        assert is_refused_or(whole, kind.having(kind.parts[:count]).file(count % 2 == 0))


@pytest.mark.parametrize("rows", [97, 1000])
def test_more_rows_than_there_are(kind, rows):
    sized = kind.saying(_257=rows)
    if 278 in kind.tags:
        sized = sized.saying(_278=-(-rows // len(kind.parts) * (3 if kind.numbers(284) == [2] else 1)))
    with pytest.raises(UnprocessableImage):
        read(sized.file())


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (KINDS["strips"].having(KINDS["strips"].parts[:3]), "lacks 2 of 5 strips that its file says it has"),
        (KINDS["tiles"].having(KINDS["tiles"].parts[:8]), "lacks 1 of 9 tiles"),
        (KINDS["strips"].having([*KINDS["strips"].parts[:4], bytes(4600)]), "lacks 8 of 4,608 bytes of strip 5"),
        (KINDS["strips"].having(KINDS["strips"].parts * 2), "lists 10 strips, and has pixels for 5; save it again"),
        (
            jpegs(tile=32).having([encoded(Image.new("RGB", (24, 32)), "JPEG", keep_rgb=True)] * 9),
            "says 32 x 32 pixels of its tile 1, and 24 x 32 are coded in it",
        ),
        (KINDS["JPEG"].having([one[:-40] for one in KINDS["JPEG"].parts]), "lacks pixels that its file says it has"),
        (faxes("tiff_raw_16"), r"a fax's runs in words \(compression 32771\); save it with Group 4"),
        (KINDS["group4"].saying(_257=200, _278=70), "lacks pixels"),
        (
            tiff(PICTURE[::2, ::2], rows=40).saying(_256=96, _257=80, _278=80, _262=6),
            "YCbCr that is not compressed and has fewer colours than pixels; save it in RGB",
        ),
    ],
)
def test_the_reason_is_told(file, says):
    with pytest.raises(UnprocessableImage, match=says):
        read(file.file())


@pytest.mark.parametrize("kind", ["strips", "tiles", "planes", "one strip", "other order"])
def test_a_file_may_leave_open_how_many_bytes_there_are(kind):
    """As old programs leave it."""
    file = KINDS[kind]
    whole = read(file.file())
    assert not is_refused_or(whole, file.file(sizes=False))
    cut = file.having([*file.parts[:-1], file.parts[-1][:-8]])
    with pytest.raises(UnprocessableImage, match="lacks 8 of"):
        read(cut.file(behind=True, sizes=False))


def test_a_tag_that_stands_twice_is_refused():
    data = bytearray(KINDS["strips"].file())
    (count,) = struct.unpack_from("<H", data, 8)
    at = next(10 + 12 * i for i in range(count) if data[10 + 12 * i : 12 + 12 * i] == b"\x16\1")  # rows of a strip
    data[at : at + 2] = b"\1\1"
    with pytest.raises(UnprocessableImage, match="has the tag 257 twice"):
        read(bytes(data))


def test_pixels_are_not_decoded_where_bytes_are_missing(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    file = KINDS["strips"].having(KINDS["strips"].parts[:2])
    with pytest.raises(UnprocessableImage, match="lacks 3 of 5 strips"):
        read(file.file())


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_page_by_fax_of_any_kind_is_shown(compression, turned):
    """The last rows of a page are white, and their code is that of nothing but white."""
    page = MASK.copy()
    page[40:] = True
    for rows in (80, 16, 7):
        file = Tiff.of(encoded(Image.fromarray(page), "TIFF", compression=compression, tiffinfo={278: rows}))
        if turned:
            swapped = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
            file = file.having([part.translate(swapped) for part in file.parts]).saying(_266=2)
        np.testing.assert_array_equal(read(file.file())[..., 0] > 0, page)
        cut = file.having([*file.parts[:-1], file.parts[-1][: len(file.parts[-1]) // 2]])
        with pytest.raises(UnprocessableImage):
            read(cut.file())


def test_a_page_whose_code_ends_in_noughts_is_whole():
    """They stand before those that mark its end, and belong to its last row."""
    for width in range(60, 70):
        page = np.add.outer(np.arange(40) // 5, np.arange(width) // 9) % 3 > 0
        for compression in ("group3", "group4"):
            data = encoded(Image.fromarray(page), "TIFF", compression=compression, tiffinfo={278: 7})
            np.testing.assert_array_equal(read(data)[..., 0] > 0, page)


def old_jpeg(stream: bytes, strips: bool = False) -> bytes:
    """Return a TIFF of the older way to hold JPEG: a whole stream of it, which its one strip names, too."""
    numbers = {256: [64], 257: [64], 258: [8] * 3, 259: [6], 262: [6], 277: [3], 278: [64], 512: [1], 530: [2, 2]}
    tags = {tag: (3, struct.pack(f"<{len(values)}H", *values)) for tag, values in numbers.items()}
    tags |= {273: (4, b""), 513: (4, bytes(4)), 514: (4, struct.pack("<I", len(stream)))}
    file = Tiff("<", False, tags, (stream,))
    (start,) = Tiff.of(file.file()).numbers(273)
    return file.saying(_513=start).file()


def test_the_older_way_to_hold_jpeg():
    picture = Image.fromarray(PICTURE[:64, :64])
    stream = encoded(picture, "JPEG", quality=95)
    assert np.abs(read(old_jpeg(stream)).astype(int) - np.asarray(Image.open(io.BytesIO(stream)))).max() < 40
    for tenth in range(2, 10):
        with pytest.raises(UnprocessableImage):
            read(old_jpeg(stream[: len(stream) * tenth // 10]))


def test_a_fax_of_very_many_rows_or_strips_is_refused_before_it_is_decoded(monkeypatch):
    """Its decoder writes a line about each row that it cannot read."""
    file = faxes("group4")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UnprocessableImage, match="a fax's page of so many rows"):
        read(file.saying(_256=8, _257=2**16 + 1).file())
    with pytest.raises(UnprocessableImage, match="very many small parts"):
        read(file.saying(_256=8, _257=20_000, _278=1).having([b"\0"] * 20_000).file())


def test_other_files_have_no_layout():
    assert layout(encoded(Image.new("L", (3, 3)), "PNG")) is None

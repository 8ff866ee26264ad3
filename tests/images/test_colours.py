"""Values of more than 8 bits to colours: all of them scaled or those of a window, and what is told of that."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from service.errors import UnprocessableImage
from service.images import decode
from service.images.decoding import warnings_of
from tests.conftest import encoded, photograph
from tests.images.files import tiff

PHOTO = photograph("rocket").resize((31, 20))


def read(data: bytes, **more: object) -> Image.Image:
    return decode(data, max_bytes=2**22, max_pixels=25_000_000, **more)  # type: ignore[arg-type]


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
    photo = PHOTO
    assert np.array_equal(np.asarray(read(encoded(photo), window=(0, 4095))), np.asarray(photo))


def test_dark_16_bits_are_warned_of() -> None:
    ((warning),) = warnings_of(read(grey16([[0, 4095]])))
    assert "16 bits and values up to 4095 only, and is seen almost black" in warning
    assert "window = [low, high]" in warning
    assert warnings_of(read(grey16([[0, 2**14]]))) == ()
    assert warnings_of(read(grey16([[0, 4095]]), window=(0, 4095))) == ()
    assert warnings_of(read(encoded(PHOTO))) == ()


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

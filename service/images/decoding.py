"""Bytes to a picture, with every limit on pictures' files enforced here."""

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError, features

from service.errors import ServiceError, TooLarge, UnprocessableImage, UnsupportedMediaType
from service.images import bmp, colours, declared, transparency
from service.images.containers import avif, heic, jpeg, png, tiff
from service.images.containers.boxes import Coded, contradiction
from service.images.containers.continued import differ
from service.images.declared import METADATA_BYTES, Costly, Lacking, Strange

FORMATS: tuple[str, ...] = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
if features.check("avif"):
    FORMATS += ("AVIF",)
# Pillow has a limit of its own, in the whole process; here pixels are counted before any is decoded.
Image.MAX_IMAGE_PIXELS = None
# Pillow reads these formats' small parts one by one in Python: a file may be made so that a few bytes cost seconds. No
# program writes pictures that come near these bounds.
_READS_OF_HEADER, _READS = 10_000, 60_000
_READS_OF_GIF = 250_000  # which is made of blocks of at most 255 bytes
_PIXEL = 8  # bytes that one has at most
_RUN_LENGTH_PIXELS = 4_000_000
_UPRIGHT: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BIG_ENDIAN = ("I;16BS", "I;32BS", "F;32BF")  # how values lie in a TIFF
_WARNINGS = "heatlens warnings"  # a key of `Image.info`
_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (128, b"DICM", "a DICOM file; export the picture from it as PNG (16 bits, and `window` in the catalogue)"),
    (0, b"%PDF", "a PDF document; export a page of it as PNG"),
    (0, b"\x00\x00\x01\x00", "a Windows icon; save it as PNG"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture; save it as PNG or JPEG"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture; save it as PNG or JPEG"),
    (0, b"\xff\x0a", "a JPEG XL picture; save it as PNG or JPEG"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture; save it as PNG or JPEG"),
    (0, b"8BPS", "a Photoshop file; save it as PNG"),
    (0, b"PK\x03\x04", "a zip archive; send one picture of it"),
    (4, b"ftyp", "a film or a picture of an unknown kind; send a still picture as PNG or JPEG"),
    (0, b"\x93NUMPY", "a numpy array; save it as PNG"),
)

# How files of accepted types begin; what is cut off right behind that, or of an uncommon kind, no decoder knows again.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    *((start, "TIFF") for start in declared.TIFFS),
)


def decode(
    data: bytes,
    *,
    max_bytes: int,
    max_pixels: int,
    window: tuple[float, float] | None = None,
    alpha: bool = False,
    begin: Callable[[int], object] = lambda pixels: None,
) -> Image.Image:
    """Return the picture in RGB, upright, its first frame; transparency is laid over white.

    Args:
        data: the bytes of an image file.
        max_bytes: largest file.
        max_pixels: largest picture.
        window: values of pictures of more than 8 bits that become black and white, or white and black in a TIFF whose
            least value is white; None: all that the bits can say.
        alpha: return RGBA where the file has transparency, instead of laying it over white.
        begin: told how many pixels there are before any is decoded; it may wait, and raise.

    Raises:
        TooLarge: more bytes or pixels than allowed; pixels are checked before any is decoded.
        UnsupportedMediaType: not one of `formats()`.
        UnprocessableImage: damaged or truncated.
    """
    if len(data) > max_bytes:
        raise TooLarge(
            f"the picture has {len(data):,} bytes and at most {max_bytes:,} are accepted; send a smaller one"
        )
    if not data:
        raise UnprocessableImage("the picture is empty (0 bytes); send the bytes of an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # none of Pillow's warnings matters: pixels are counted here
            data = bmp.usual(data)
            whole = jpeg.Whole(data) if data.startswith(b"\xff\xd8") else None
            image = _read(whole.data if whole is not None else data, max_pixels, begin)
            for other in _continued(data, whole, image):
                if differ(image, _open(other, max_pixels, begin)):
                    raise Lacking("pixels")
            if image.format == "HEIF" and heic.may_lack_tiles(data, image):
                _check_tiles(data, max_pixels, begin)
            told = colours.warnings(image, window)
            if whole is not None and whole.is_partial:
                told += ("the picture is a JPEG that ends before all of it is told, and is seen blurred",)
            image = colours.windowed(image, data, window)
            shown = colours.shown(_upright(image), window, opaque=_may_be_opaque(data), alpha=alpha)
            if colours.is_negative(image):
                shown = ImageOps.invert(shown)
            shown.info[_WARNINGS] = told
            return shown
    except UnidentifiedImageError:
        raise UnsupportedMediaType(
            f"the bytes are not an image of an accepted type{_seen(data)}; send one of {', '.join(formats())}"
        ) from None
    except ServiceError:
        raise
    except Costly as error:
        raise UnprocessableImage(f"the image cannot be decoded at a reasonable cost ({error}): save it again") from None
    except Strange as error:
        raise UnprocessableImage(str(error)) from None
    except Exception as error:  # decoders raise almost anything on damaged files
        raise UnprocessableImage(
            f"the image cannot be decoded ({type(error).__name__}); it is damaged or cut off: save it again"
        ) from None


def warnings_of(image: Image.Image) -> tuple[str, ...]:
    """Return what decoding found that a picture's sender may not know."""
    return tuple(image.info.get(_WARNINGS, ()))


@cache
def formats() -> tuple[str, ...]:
    """Return the formats that are read: `FORMATS`, and HEIF where its decoder is installed."""
    try:
        from pi_heif import register_heif_opener
    except ImportError:  # not installed, or not for this machine
        return FORMATS
    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return (*FORMATS, "HEIF")


class _File(io.BytesIO):
    """A file that may only be read so many times."""

    reads_left = _READS_OF_HEADER

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes."""
        self.reads_left -= 1
        if self.reads_left < 0:
            raise Costly("it is made of very many small parts")
        return super().read(size)


def _read(data: bytes, max_pixels: int, begin: Callable[[int], object]) -> Image.Image:
    """Return a file's picture as browsers show it, where Pillow reads another one."""
    said = bmp.header(data)
    if said is None or not (said.run_length_coded or said.masked):
        try:
            return transparency.cleared(_open(data, max_pixels, begin), data)
        except OSError as error:
            kind = str(error).removeprefix("Unsupported BMP ")
            if kind == str(error):
                raise
        raise Strange(f"the picture is a BMP of a form that is not read, by its {kind}; save it as PNG")
    _count(said.width, said.height, max_pixels)
    if said.run_length_coded and said.width * said.height > _RUN_LENGTH_PIXELS:
        raise Costly("a run-length coded BMP of so many pixels")
    begin(said.width * said.height)
    return bmp.run_lengths(data, said) if said.run_length_coded else bmp.unmasked(data, said)


def _continued(data: bytes, whole: jpeg.Whole | None, image: Image.Image) -> Iterator[bytes]:
    """Give files that show the same picture unless some of it is missing; none where that is known without."""
    if whole is not None:
        return iter([whole.continued()] if whole.is_in_doubt(image) else [])
    if image.format == "HEIF":
        other = heic.continued(data)
        return iter([other] if other is not None else [])
    layout = tiff.layout(data)
    return tiff.continued(layout) if layout is not None else iter(())


def _check_tiles(data: bytes, max_pixels: int, begin: Callable[[int], object]) -> None:
    for other in heic.alone(data):
        try:
            _open(other, max_pixels, begin)
        except (OSError, ValueError):
            raise Lacking("tiles") from None


def _may_be_opaque(data: bytes) -> bool:
    """Whether a picture that is clear everywhere is taken for one without transparency."""
    said = bmp.header(data)
    return data[:2] == b"BM" and not (said is not None and said.run_length_coded)


def _count(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooLarge(
            f"the picture has {width} x {height} = {width * height:,} pixels and at most {max_pixels:,} are accepted; "
            "scale it down"
        )


def _open(data: bytes, max_pixels: int, begin: Callable[[int], object]) -> Image.Image:
    canvas, tile = declared.canvas(data), declared.tile(data, max_pixels)
    if canvas is not None:  # there is memory for all of it before anybody can ask for its size
        _count(*canvas, max_pixels)
        begin(canvas[0] * canvas[1])
    coded = _coded(data)  # first of all: what reads the file then takes whatever it is made of
    file = _File(data)
    with Image.open(file, formats=formats()) as image:
        if canvas is None:
            _count(*image.size, max_pixels)
            pictures = coded.get(image.format or "", [])
            _check_coded(pictures, max_pixels, needed=image.format in coded)
            begin(max(image.width * image.height, tile, *(one.pixels for one in pictures)))
        elif image.width * image.height > canvas[0] * canvas[1]:
            raise Costly("it says of itself that it has fewer pixels than it has")
        if any(tile[0] == "raw" for tile in getattr(image, "tile", ())):
            colours.check_planes(image)
            # Pillow puts what it has of a row together anew with each piece that it reads.
            image.decodermaxblock = max(image.decodermaxblock, _PIXEL * image.width)
        if (layout := tiff.layout(data)) is not None:
            tiff.check(layout)
            image.tile = [_native(tile) for tile in image.tile]
            image.info.pop("xmp", None)  # by which it would be turned when loaded
        transparency.note(image)
        file.reads_left = _READS_OF_GIF if image.format == "GIF" else _READS
        image.load()
        if image.format == "PNG" and png.lacks_rows(data, image):
            raise Lacking("rows")
        return image


def _native(tile: Any) -> Any:
    """Return a part of a file as its values lie: libtiff gives them as this machine has them, which Pillow forgets."""
    if tile[0] != "libtiff" or tile.args[0] not in _BIG_ENDIAN:
        return tile
    return tile._replace(args=(tile.args[0].replace("B", "N"), *tile.args[1:]))


def _coded(data: bytes) -> dict[str, list[Coded]]:
    """Return the coded pictures of a file whose container tells their sizes, too, by what the file may be."""
    found = {"AVIF": avif.coded(data)} if avif.begins(data) else {}
    if heic.begins(data) and "HEIF" in formats():
        found["HEIF"] = heic.coded(data)
    return found


def _check_coded(coded: Sequence[Coded], max_pixels: int, *, needed: bool) -> None:
    """Hold coded pictures to the limit, and to what their container says of them.

    Raises:
        TooLarge: one of them has more pixels than allowed, and than the container says.
        Strange: it has another size than the container says; or there are none where some are `needed`.
    """
    for one in coded:
        if one.said is None or not one.is_of(one.said):
            _count(*one.size, max_pixels)
    if needed and (lie := contradiction(coded)) is not None:
        raise Strange(f"{lie}; save the picture again")


def _seen(data: bytes) -> str:
    """Return what bytes seem to be, where they are known."""
    if data[4:8] == b"ftyp" and data[8:12] in (*heic.BRANDS, b"heif"):
        install = "; this server reads no HEIC: install heatlens[heif] on it, or save the picture as JPEG"
        return f" (they look like a HEIC picture{', damaged or cut off' if 'HEIF' in formats() else install})"
    text = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return " (they look like an HTML page; send the picture that it shows)"
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in data[:4096].lower():
        return " (they look like an SVG drawing; draw it as PNG)"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis") and "AVIF" in FORMATS:
        return " (they begin as AVIF does, and are damaged or cut off)"
    found = next((what for at, start, what in _OTHERS if data[at : at + len(start)] == start), None)
    if found:
        return f" (they look like {found})"
    own = next((name for start, name in _BEGINNINGS if data.startswith(start)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        own = "WEBP"
    if own is None:
        return ""
    pixels = "its pixels are of an uncommon kind (TIFF may have any): save it with 8 or 16 bits, grey or in RGB"
    return f" (they begin as {own} does, and are damaged or cut off{', or ' + pixels if own == 'TIFF' else ''})"


def _upright(image: Image.Image) -> Image.Image:
    """Apply the orientation that EXIF tells; the rest of it is not read, as it may be anything.

    Of a picture Pillow would take what XMP tells as well, by which browsers turn none.
    """
    told = Image.new("1", (1, 1))
    told.info = {key: image.info[key] for key in ("exif", "Raw profile type exif") if image.info.get(key)}
    if any(len(value) > METADATA_BYTES for value in told.info.values()):
        return image
    try:
        method = _UPRIGHT.get(told.getexif().get(274, 1))
    except Exception:  # damaged
        return image
    return image if method is None else image.transpose(method)

"""Pictures to start a fuzz from: every accepted format and mode, odd ones, and files made to hurt a decoder."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from tests.images.files import HEIC, Tiff

SOI, SIGNATURE = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
MASKS = struct.pack("<4I", 0xF00, 0xF0, 0xF, 0xF000)  # of a BMP of 16 bits


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, idat: bytes, *extra: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """Return a PNG of any declared size; extra chunks go in front of its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


def segment(marker: int, data: bytes) -> bytes:
    """Return a JPEG segment."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def bmp(width: int, height: int, data: bytes, *, bits: int = 24, compression: int = 0) -> bytes:
    """Return a BMP of any declared size, with a grey palette below 16 bits."""
    palette = b"".join(bytes((i, i, i, 0)) for i in range(1 << bits)) if bits <= 8 else b""
    offset = 54 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + info + palette + data


def gif(width: int, height: int, extensions: bytes = b"", lzw: bytes = b"\x02\x02\x4c\x01\x00") -> bytes:
    """Return a GIF of any declared size."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return screen + extensions + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + lzw + b";"


def tiff(entries: list[tuple[int, int, int, int]], tail: bytes = b"") -> bytes:
    """Return EXIF data with entries (tag, type, count, value or offset)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4) + tail


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "text " * 50)
    return buffer.getvalue()


def _progressive(width: int, height: int, scans: int) -> bytes:
    """Return a JPEG whose every scan makes the decoder go over all blocks again: end-of-band runs of 32,767 blocks."""
    frame = struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0"
    quantisation = b"\0" + bytes([1] * 64)
    direct = b"\0" + bytes([1] + [0] * 15) + b"\0"
    runs = b"\x10" + bytes([1] + [0] * 15) + b"\xe0"  # one code, `0`: a run of 2**14 and what 14 bits say
    blocks = -(-width // 8) * -(-height // 8)
    bits = "0" * blocks
    bits += "1" * (-len(bits) % 8)
    dc = segment(0xDA, b"\1\1\0\0\0\0") + int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    run = "0" + "1" * 14
    runs_of = run * -(-blocks // (2**15 - 1))
    runs_of += "1" * (-len(runs_of) % 8)
    data = int(runs_of, 2).to_bytes(len(runs_of) // 8, "big").replace(b"\xff", b"\xff\0")
    scan = segment(0xDA, b"\1\1\0\1\x3f\x10") + data  # a refinement: the decoder looks at every coefficient
    tables = segment(0xDB, quantisation) + segment(0xC2, frame) + segment(0xC4, direct) + segment(0xC4, runs)
    return SOI + tables + dc + scan * scans + b"\xff\xd9"


@cache
def seeds() -> dict[str, bytes]:
    """Return small files to mutate, by name."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:40, 0:61]
    smooth = np.stack([x * 4, y * 6, (x + y) * 2], 2) + rng.integers(0, 20, (40, 61, 3))
    photo = Image.fromarray(smooth.clip(0, 255).astype(np.uint8))
    clear = photo.copy()
    clear.putalpha(Image.fromarray((x * 4).astype(np.uint8)))
    palette = photo.quantize(64)
    other = photo.transpose(Image.Transpose.ROTATE_180)
    exif = Image.Exif()
    exif[274], exif[271], exif[282] = 6, "maker", 72.0
    found: dict[str, bytes] = {}
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        found[f"PNG {mode}"] = _file(clear.convert(mode), "PNG")
    found["PNG I;16"] = _file(Image.fromarray((y * 1600).astype(np.uint16)), "PNG")
    rows = b"".join(b"\0" + row.tobytes() for row in (smooth * 200).astype(">u2"))
    found["PNG 16-bit RGB"] = png(61, 40, zlib.compress(rows), depth=16)
    found["PNG palette with alpha"] = _file(palette, "PNG", transparency=bytes(range(64)))
    found["PNG transparent colour"] = _file(photo, "PNG", transparency=(0, 0, 0))
    interlaced = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)) + chunk(b"IDAT", zlib.compress(bytes(79)))
    found["PNG interlaced"] = SIGNATURE + interlaced + chunk(b"IEND", b"")
    found["PNG with text, profile and time"] = png(
        4,
        4,
        zlib.compress(bytes(4 * 13)),
        chunk(b"tEXt", b"Comment\0hello"),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 99)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<tiff:Orientation>6<"),
        chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(128))),
        chunk(b"gAMA", bytes(4)),
        chunk(b"tIME", bytes(7)),
        chunk(b"pHYs", bytes(9)),
    )
    for kind in ("PNG", "JPEG", "WEBP"):
        found[f"{kind} EXIF"] = _file(photo, kind, exif=exif)
        found[f"{kind} profile"] = _file(photo, kind, icc_profile=bytes(200))
    for mode in ("L", "RGB", "CMYK"):
        found[f"JPEG {mode}"] = _file(photo.convert(mode), "JPEG")
        found[f"JPEG {mode} progressive"] = _file(photo.convert(mode), "JPEG", progressive=True)
    found["JPEG 4:4:4 restarts"] = _file(photo, "JPEG", subsampling=0, restart_marker_blocks=2)
    found["JPEG comment"] = _file(photo, "JPEG", comment=b"a comment")
    found["JPEG many pictures"] = _file(photo, "MPO", save_all=True, append_images=[other])
    found["JPEG scans"] = _progressive(64, 64, 20)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16"):
        made = Image.fromarray((y * 1600).astype(np.uint16)) if mode == "I;16" else clear.convert("RGB")
        found[f"TIFF {mode}"] = _file(made if mode == "I;16" else made.convert(mode), "TIFF")
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        found[f"TIFF {compression}"] = _file(photo, "TIFF", compression=compression)
    for compression in ("group3", "group4"):
        found[f"TIFF {compression}"] = _file(photo.convert("1"), "TIFF", compression=compression)
    found["TIFF of pages"] = _file(photo.copy(), "TIFF", save_all=True, append_images=[other.copy()])
    for name, kept in (("RGB", photo), ("RGBA", clear)):
        found[f"AVIF {name}"] = _file(kept, "AVIF", exif=exif)
    for name, options in (("lossy", {}), ("lossless", {"lossless": True})):
        found[f"WebP {name}"] = _file(photo, "WEBP", **options)
        found[f"WebP {name} alpha"] = _file(clear, "WEBP", **options)
    moving = {"save_all": True, "append_images": [other, photo], "duration": 50}
    found["PNG animated"], found["WebP animated"] = _file(photo, "PNG", **moving), _file(clear, "WEBP", **moving)
    found["GIF animated"] = _file(palette, "GIF", **moving, comment=b"a comment", loop=3)
    found["GIF transparent"], found["GIF interlaced"] = (
        _file(palette, "GIF", transparency=7),
        _file(palette, "GIF", interlace=1),
    )
    found["GIF 1 pixel"] = gif(1, 1)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        found[f"BMP {mode}"] = _file(clear.convert(mode), "BMP")
    found["BMP RLE8"] = bmp(
        16, 4, (b"\x10\x05" + b"\0\0") * 2 + b"\0\2\3\1" + b"\0\4abcd" + b"\0\1", bits=8, compression=1
    )
    found["BMP RLE4"] = bmp(
        16, 4, (b"\x10\x35" + b"\0\0") * 2 + b"\0\2\3\1" + b"\0\4ab" + b"\0\1", bits=4, compression=2
    )
    found["BMP 16-bit"] = bmp(4, 4, bytes(32), bits=16)
    found["BMP masks"], found["BMP mask of opacity"] = (
        bmp(4, 4, MASKS + bytes(range(32)), bits=16, compression=kind) for kind in (3, 6)
    )
    os2 = bmp(4, 4, bytes(48))
    found["BMP OS/2"] = os2[:10] + struct.pack("<II", 54 - 24, 16) + os2[18:30] + os2[54:]
    found["BMP upside down"] = bmp(4, -4, bytes(48))
    found["HEIC"] = HEIC
    return found | _polyglots(found) | _sizes()


def _polyglots(found: dict[str, bytes]) -> dict[str, bytes]:
    script = b"<html><script>alert(1)</script></html>"
    picture = found["JPEG RGB"]
    return {
        "GIF and ZIP": found["GIF animated"] + _zip(),
        "GIF and script": gif(0x2F2A, 1, b"!\xfe\x06*/=1//\0"),
        "JPEG and HTML": SOI + segment(0xFE, script) + picture[2:] + script,
        "PNG and ZIP": png(4, 4, zlib.compress(bytes(52)), chunk(b"zipz", _zip())),
        "PNG and HTML": png(4, 4, zlib.compress(bytes(52)), chunk(b"tEXt", b"a\0" + script)),
        "BMP and PDF": b"BM%PDF-1.4\n" + found["BMP RGB"][13:],
        "PNG in JPEG": SOI + segment(0xE1, b"Exif\0\0" + found["PNG L"]) + picture[2:],
        "JPEG in JPEG": SOI
        + segment(0xE1, b"Exif\0\0" + tiff([(513, 4, 1, 26), (514, 4, 1, len(picture))], picture))
        + picture[2:],
        "JPEG in WebP": found["WEBP EXIF"][:-40] + picture,
        "WebP in RIFF": b"RIFF" + struct.pack("<I", len(found["WebP lossy"]) + 4) + b"WEBP" + found["WebP lossy"],
        "PNG in BMP": bmp(61, 40, found["PNG RGB"], compression=5),
        "JPEG in BMP": bmp(61, 40, picture, compression=4),
        "ZIP": _zip(),
        "TIFF": tiff([(256, 3, 1, 4), (257, 3, 1, 4)]),
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "HTML": script,
    }


def _sizes() -> dict[str, bytes]:
    """Return files with declared sizes of nothing and of far too much, and little data."""
    few = zlib.compress(bytes(100))
    found = {
        "nothing": b"",
        "PNG 0 x 0": png(0, 0, few),
        "PNG 0 x 5": png(0, 5, few),
        "GIF 0 x 0": gif(0, 0),
        "BMP 0 x 0": bmp(0, 0, b""),
        "GIF 65535 x 65535": gif(65535, 65535),
        "BMP of least height": bmp(4, -(2**31), bytes(48)),
        "BMP RLE far jump": bmp(25_000_000, 1, b"\0\2\xff\xff" * 4, bits=8, compression=1),
    }
    for side in (20_000, 65_535, 2**31 - 1, 2**32 - 1):
        found[f"PNG {side} x {side}"] = png(side, side, few)
        if side < 2**31:
            found[f"BMP {side} x {side}"] = bmp(side, side, b"abc")
    frame = struct.pack(">BHHB", 8, 65535, 65535, 3) + b"\1\x11\0\2\x11\0\3\x11\0"
    found["JPEG 65535 x 65535"] = SOI + segment(0xC0, frame) + segment(0xDA, b"\3\1\0\2\0\3\0\0\x3f\0") + b"abc"
    vp8l = b"\x2f" + struct.pack("<I", 16382 | 16382 << 14) + bytes(20)
    found["WebP 16383 x 16383"] = (
        b"RIFF" + struct.pack("<I", len(vp8l) + 13) + b"WEBPVP8L" + struct.pack("<I", len(vp8l)) + vp8l + b"\0"
    )
    return found


# Made to hurt. Up to 16 MB and 25 megapixels each: run once, as they are.

_SIDE, _BYTES = 5000, 16 * 2**20


def _zeros(width: int, height: int, colour: int, depth: int = 8) -> bytes:
    values = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    return png(
        width, height, zlib.compress(bytes(height * (1 + width * values * depth // 8)), 1), depth=depth, colour=colour
    )


def _filled(head: bytes, part: bytes, tail: bytes) -> bytes:
    return head + part * ((_BYTES - len(head) - len(tail)) // len(part)) + tail


def _riff(part: bytes, data: bytes) -> bytes:
    """Return a WebP that goes on with a chunk again and again."""
    filled = _filled(data, part, b"")
    return filled[:4] + struct.pack("<I", len(filled) - 8) + filled[8:]


def _webp_frame() -> bytes:
    """Return a frame of an animated WebP, of one pixel."""
    still = _file(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    return b"ANMF" + struct.pack("<I", 16 + len(still)) + bytes(16) + still


def _boxes(count: int) -> bytes:
    """Return boxes of an AVIF, each in the one before."""
    return b"".join(struct.pack(">I4s", 8 * (count - i), b"moov") for i in range(count))


def _jpeg_strips(count: int) -> bytes:
    """Return a TIFF of JPEGs of eight rows each."""
    one = _file(Image.new("L", (40, 8), 99), "JPEG")
    tags = {256: 40, 257: 8 * count, 258: 8, 259: 7, 262: 1, 277: 1, 278: 8}
    numbers = {tag: (4, struct.pack("<I", value)) for tag, value in tags.items()}
    return Tiff("<", False, numbers | {273: (4, b"")}, (one,) * count).file()


def _exif(entries: list[tuple[int, int, int, int]], size: int) -> bytes:
    return png(4, 4, zlib.compress(bytes(52)), chunk(b"eXIf", tiff(entries, b"\1\0\0\0" * (size // 4))))


def _turned(kind: str, **options: object) -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    noise = np.random.default_rng(0).integers(0, 256, (_SIDE // 8, _SIDE // 8, 3), dtype=np.uint8)
    return _file(Image.fromarray(noise).resize((_SIDE, _SIDE)), kind, exif=exif, **options)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "PNG of 25 MP, RGBA": lambda: _zeros(_SIDE, _SIDE, 6),
    "PNG of 25 MP, 16-bit grey": lambda: _zeros(_SIDE, _SIDE, 0, 16),
    "PNG of 25 MP, 16-bit RGBA": lambda: _zeros(_SIDE, _SIDE, 6, 16),
    "PNG of 25 MP x 1": lambda: _zeros(25_000_000, 1, 0),
    "PNG of a million chunks": lambda: _filled(
        png(4, 4, b"")[:33], chunk(b"teSt", b""), png(4, 4, zlib.compress(bytes(52)))[33:]
    ),
    "PNG of a million chunks behind": lambda: _filled(
        png(4, 4, zlib.compress(bytes(52)))[:-12], chunk(b"teSt", b""), chunk(b"IEND", b"")
    ),
    "PNG of a million empty IDAT": lambda: _filled(
        png(4, 4, b"")[:33], chunk(b"IDAT", b""), png(4, 4, zlib.compress(bytes(52)))[33:]
    ),
    "PNG of compressed texts": lambda: png(
        4,
        4,
        zlib.compress(bytes(52)),
        *(chunk(b"zTXt", b"%d\0\0" % i + zlib.compress(bytes(2**20 - 1))) for i in range(60)),
    ),
    "PNG of a compressed profile": lambda: png(
        4, 4, zlib.compress(bytes(52)), chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2**28), 9))
    ),
    "PNG EXIF, overlapping": lambda: _exif(
        [(274, 3, 1, 6)] + [(i, 7, 2**20, 2**20) for i in range(300, 60_000)], 2**21
    ),
    "PNG EXIF, a million fractions": lambda: _exif([(274, 3, 1, 6), (282, 5, 1_900_000, 100)], _BYTES - 10_000),
    "PNG EXIF, turned by fractions": lambda: _exif([(274, 5, 1_900_000, 100)], _BYTES - 10_000),
    "PNG EXIF, turned by 512 KB": lambda: _exif([(274, 5, 65_000, 26)], 520_100),
    "JPEG EXIF, fractions": lambda: (
        SOI
        + b"".join(
            segment(0xE1, b"Exif\0\0" + part)
            for data in [tiff([(274, 3, 1, 6), (282, 5, 1_900_000, 100), (296, 3, 1, 2)], b"\1\0\0\0" * 3_900_000)]
            for part in (data[i : i + 65_000] for i in range(0, len(data), 65_000))
        )
        + seeds()["JPEG RGB"][2:]
    ),
    "JPEG of padding": lambda: _filled(SOI, b"\xff", seeds()["JPEG RGB"][2:]),
    "JPEG of junk": lambda: _filled(SOI + segment(0xFE, b""), b"\xff\0", seeds()["JPEG RGB"][2:]),
    "JPEG of empty segments": lambda: _filled(SOI, segment(0xE5, b""), seeds()["JPEG RGB"][2:]),
    "JPEG of scans, 25 MP": lambda: _progressive(_SIDE, _SIDE, 300_000),
    "JPEG of scans, 1 MP": lambda: _progressive(1000, 1000, 500_000),
    "JPEG of 24 scans, 25 MP": lambda: _progressive(_SIDE, _SIDE, 23),
    "JPEG of Photoshop's resources": lambda: _filled(
        SOI, segment(0xED, b"Photoshop 3.0\0" + b"8BIM\0\1\0\0\0\0\0\0" * 5000), seeds()["JPEG RGB"][2:]
    ),
    "JPEG of tables": lambda: _filled(SOI, segment(0xDB, (b"\0" + bytes([1] * 64)) * 1000), seeds()["JPEG RGB"][2:]),
    "JPEG of profiles": lambda: _filled(
        SOI, segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(2000)), seeds()["JPEG RGB"][2:]
    ),
    "JPEG of packets": lambda: _filled(
        SOI, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(65_000)), seeds()["JPEG RGB"][2:]
    ),
    "JPEG of restarts": lambda: _filled(seeds()["JPEG 4:4:4 restarts"][:-2], b"\xff\xd0", b"\xff\xd9"),
    "JPEG of 25 MP, progressive": lambda: _turned("JPEG", progressive=True, quality=80),
    "JPEG of 25 MP": lambda: _turned("JPEG", quality=80),
    "WebP of 25 MP": lambda: _file(Image.new("RGBA", (_SIDE, _SIDE)), "WEBP", quality=1, method=0),
    "GIF of 25 MP": lambda: _file(Image.new("P", (_SIDE, _SIDE)), "GIF"),
    "GIF of 25 MP, a small frame": lambda: gif(1, 1)[:6] + struct.pack("<HH", _SIDE, _SIDE) + gif(1, 1)[10:],
    "GIF of a comment": lambda: _filled(gif(1, 1)[:19] + b"!\xfe", b"\1a", b"\0" + gif(1, 1)[19:]),
    "GIF of comments": lambda: _filled(gif(1, 1)[:19], b"!\xfe\1a\0", gif(1, 1)[19:]),
    "GIF of extensions": lambda: _filled(gif(1, 1)[:19], b"!\1\0", gif(1, 1)[19:]),
    "GIF of one comment of full blocks": lambda: _filled(
        gif(1, 1)[:19] + b"!\xfe", b"\xff" + bytes(255), b"\0" + gif(1, 1)[19:]
    ),
    "GIF of an extension of full blocks": lambda: _filled(
        gif(1, 1)[:19] + b"!\xff", b"\xff" + bytes(255), b"\0" + gif(1, 1)[19:]
    ),
    "GIF of blocks behind": lambda: _filled(gif(1, 1)[:-1], b"!\1\1a\0", b";"),
    "GIF of small blocks": lambda: gif(_SIDE, _SIDE, lzw=b"\2" + b"\1\4" * 8_000_000 + b"\0"),
    "WebP of a million chunks": lambda: _riff(b"teSt\0\0\0\0", seeds()["WEBP EXIF"]),
    "WebP of very many frames": lambda: _riff(_webp_frame(), seeds()["WebP animated"]),
    "AVIF of a million boxes": lambda: _filled(seeds()["AVIF RGB"], b"\0\0\0\x08free", b""),
    "HEIC of a million boxes": lambda: _filled(seeds()["HEIC"], b"\0\0\0\x08free", b""),
    "AVIF of boxes in boxes": lambda: seeds()["AVIF RGB"] + _boxes(2**20),
    "BMP of 25 MP, RLE8 runs of 1": lambda: bmp(_SIDE, _SIDE, b"\1\1" * 8_000_000, bits=8, compression=1),
    "BMP of 25 MP, RLE4": lambda: bmp(_SIDE, _SIDE, b"\xff\x12" * 8_000_000, bits=4, compression=2),
    "BMP of 25 MP, RLE8 line ends": lambda: bmp(_SIDE, _SIDE, b"\1\1\0\0" * 4_000_000, bits=8, compression=1),
    "BMP of 25 MP, RLE8 jumps": lambda: bmp(_SIDE, _SIDE, b"\0\2\0\0" * 4_000_000, bits=8, compression=1),
    "BMP of masks, 16 MB": lambda: bmp(2800, 2800, MASKS + bytes(_BYTES - 99), bits=16, compression=3),
    "BMP of masks, one row": lambda: bmp(7_500_000, 1, MASKS + bytes(_BYTES - 99), bits=16, compression=6),
    "TIFF of 4 million strips": lambda: tiff(
        [(256, 4, 1, 1), (257, 4, 1, _SIDE), (273, 4, 4_000_000, 60)], bytes(2**24 - 99)
    ),
    "TIFF of a long list": lambda: tiff([(256, 4, 1, 1), (257, 4, 1, 1), (700, 3, 8_000_000, 60)], bytes(2**24 - 99)),
    "TIFF of pages that go round": lambda: tiff([(256, 4, 1, 8)] * 9)[:-4] + struct.pack("<I", 8),
    "TIFF of 60,000 entries": lambda: tiff([(256, 4, 1, 8)] * 60_000),
    "TIFF of 25 MP, fax": lambda: _file(Image.new("1", (_SIDE, _SIDE)), "TIFF", compression="group4"),
    "TIFF of 10,000 strips, fax": lambda: _file(
        Image.new("1", (100, 10_000)), "TIFF", compression="group4", tiffinfo={278: 1}
    ),
    "TIFF of 3,000 strips, JPEG": lambda: _jpeg_strips(3_000),
    "TIFF of a long EXIF": lambda: _file(
        Image.new("L", (8, 8)), "TIFF", tiffinfo={34665: {i: (i % 9, i) for i in range(50_000)}}
    ),
    "TIFF of 25 MP, deflate": lambda: _file(Image.new("RGB", (_SIDE, _SIDE)), "TIFF", compression="tiff_deflate"),
    "TIFF of 25 MP, JPEG": lambda: _file(Image.new("RGB", (_SIDE, _SIDE)), "TIFF", compression="jpeg"),
    "TIFF of 16 bits, 8 MP": lambda: _file(Image.new("I;16", (2800, 2800)), "TIFF", compression="tiff_lzw"),
    "TIFF of floats, 4 MP": lambda: _file(Image.new("F", (2000, 2000)), "TIFF", compression="tiff_lzw"),
    "AVIF of 25 MP": lambda: _file(Image.new("RGB", (_SIDE, _SIDE)), "AVIF", speed=10),
    "JPEG of 25 MP, without its end": lambda: _turned("JPEG", quality=80)[:-2],
    "BMP of 1 bit, 16 MB": lambda: bmp(_SIDE, _SIDE, bytes(_SIDE * _SIDE // 8 + 40_000), bits=1),
}

"""Pictures and maps that both ways of decoding and drawing are tried on."""

import io

import numpy as np
from PIL import Image

from service.codec.inside import Limits
from service.images import Transform
from service.rendering import Heat
from tests.conftest import encoded, photograph

LIMITS = Limits(2**24, 25_000_000, 512 * 2**20, 60.0)
PHOTO = photograph("chelsea").resize((120, 80))
CLEAR = PHOTO.convert("RGBA")
CLEAR.putalpha(Image.linear_gradient("L").resize(PHOTO.size))
RGB = Transform(40, (32, 36), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
TRANSFORMS = {
    "rgb": RGB,
    "grey": Transform((48, 48), (48, 48), (0.5,), (0.5,), fit="squash"),
    "bgra": Transform(32, (32, 32), (104.0, 117.0, 123.0, 0.0), (1.0,) * 4, range=(0.0, 255.0), order="bgr", fit="pad"),
    "window": Transform(32, (32, 32), (0.0,) * 3, (1.0,) * 3, window=(0.0, 4000.0)),
}
DEEP = Image.fromarray((np.arange(64 * 48, dtype=np.uint16) * 20).reshape(48, 64))
TURNED = Image.Exif()
TURNED[274] = 6
FILES = {
    "jpeg": encoded(PHOTO, "JPEG"),
    "turned": encoded(PHOTO, "JPEG", exif=TURNED),
    "transparent": encoded(CLEAR),
    "sixteen bits": encoded(DEEP, "PNG"),
    "palette": encoded(PHOTO.quantize(16), "GIF"),
}
# 24 bytes a pixel to draw on, and 12 to decode: large by both.
LARGE = io.BytesIO()
Image.new("RGB", (2000, 1500), (200, 30, 90)).save(LARGE, "PNG", compress_level=1)


def heats() -> list[Heat]:
    """Return a map of each kind, seeded."""
    rng = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        return (rng.random(shape) - 0.4).astype(np.float32)

    return [
        Heat(some(7, 7), "positive"),
        Heat(some(7, 7), "signed", "nearest"),
        Heat(some(5, 6, 6), "grid"),
        Heat(some(3, 32, 36), "picture", patch=(4, 5, 20, 30)),
        Heat(some(3, 20, 20), "rgb"),
    ]

"""A short form of `python -m tests.fuzz.images`, and files made to hurt a decoder."""

import math

import pytest

from service.errors import UnprocessableImage
from service.images import decode
from tests.fuzz.corpus import HOSTILE
from tests.fuzz.images import fuzz

COSTLY = [
    "PNG of a million chunks",
    "PNG of a million chunks behind",
    "JPEG of padding",
    "JPEG of empty segments",
    "JPEG EXIF, fractions",
    "JPEG of scans, 1 MP",
    "GIF of a comment",
    "GIF of comments",
    "GIF of extensions",
    "GIF of one comment of full blocks",
    "GIF of an extension of full blocks",
    "JPEG of Photoshop's resources",
    "JPEG of tables",
    "AVIF of a million boxes",
    "BMP of 25 MP, RLE8 line ends",
]


def test_mutated_pictures() -> None:
    hostile = ["PNG of 25 MP, 16-bit grey", "PNG EXIF, turned by 512 KB"]
    tally = fuzz(3000, seed=1, hostile=hostile, max_s=math.inf)  # how fast the machine is, is the command's to judge
    assert not tally.failures
    assert tally.outcomes.total() == 3002
    assert tally.outcomes["decoded"] > 300


@pytest.mark.parametrize("name", COSTLY)
def test_what_would_cost_seconds_is_refused(name: str) -> None:
    with pytest.raises(UnprocessableImage, match="reasonable cost"):
        decode(HOSTILE[name](), max_bytes=2**24, max_pixels=25_000_000)

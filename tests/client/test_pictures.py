"""A picture in whatever form it is, to the bytes of its file."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from service.client import pictures
from service.client.errors import InvalidRequest

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((5, 7, 3), "uint8"), ((1, 1, 3), "uint8"), ((5, 7), "uint8"), ((5, 7, 4), "uint8"), ((5, 7, 1), "uint16")],
)
def test_an_array_becomes_a_file_that_holds_it(shape, kind):
    pixels = RNG.integers(0, np.iinfo(kind).max, shape, dtype=kind)
    for given in (pixels, np.asfortranarray(pixels), np.repeat(pixels, 2, 0)[::2]):
        read = np.asarray(Image.open(io.BytesIO(pictures.read(given))))
        np.testing.assert_array_equal(read, pixels.squeeze(2) if shape[2:] == (1,) else pixels)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((3, 8, 9), np.uint8), r"transpose it by \(1, 2, 0\)"),
        (np.zeros((8, 9, 2), np.uint8), "is no picture"),
        (np.zeros((0, 9, 3), np.uint8), "is no picture"),
        (np.zeros(9, np.uint8), "is no picture"),
        (np.zeros((8, 9, 3), np.float32), r"give uint8 .*\* 255"),
        (np.zeros((8, 9, 3), np.uint16), "give uint8"),
        (np.zeros((8, 9), bool), "give uint8"),
    ],
)
def test_an_array_that_is_no_picture_is_refused_with_the_remedy(pixels, said):
    with pytest.raises(InvalidRequest, match=said):
        pictures.read(pixels)


def test_files_in_every_form_are_taken_as_they_are(tmp_path):
    data = b"\xff\xd8 whatever"
    path = tmp_path / "ein Bild, größer.jpg"
    path.write_bytes(data)
    uri = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    with path.open("rb") as file:
        forms = [data, bytearray(data), memoryview(data), path, str(path), uri, "data:,%FF%D8%20whatever", file]
        assert [pictures.read(form) for form in forms] == [data] * len(forms)


def test_pillows_pictures_are_saved():
    picture = Image.fromarray(RNG.integers(0, 255, (5, 7, 3), dtype=np.uint8))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(pictures.read(picture)))), np.asarray(picture))
    with pytest.raises(InvalidRequest, match=r"mode CMYK.*convert\('RGB'\)"):
        pictures.read(picture.convert("CMYK"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no/such.jpg", "no/such.jpg: No such file"),
        ("a\0b", "is no path"),
        (".", "directory"),
        ("https://host/cat.jpg", "addresses are not fetched"),
        ("data:image/png;base64", "it has no comma"),
        ("data:image/png;base64,???", "not a valid data: URI"),
        (3, "a int is no picture"),
        (io.StringIO("x"), "open it with 'rb'"),
    ],
)
def test_what_is_no_picture_is_said_to_be_none(given, said):
    with pytest.raises(InvalidRequest, match=said):
        pictures.read(given)


def test_equal_pictures_go_to_one_server():
    assert pictures.session(b"abc") == "ba7816bf8f01cfea"  # FIPS 180-2, B.1

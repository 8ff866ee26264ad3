"""Pictures in base64 of every habit are what was sent; what is none says so."""

import base64
import tracemalloc
from urllib.parse import quote

import pytest

from service.errors import InvalidParameter
from service.images import sent as reading
from service.images.sent import picture_bytes


def test_pictures_as_they_are_sent() -> None:
    data = bytes(range(256))
    text = base64.b64encode(data).decode()
    for sent in (data, text, f"data:image/png;base64,{text}", "\n".join((text[:50], text[50:])), f" {text} "):
        assert picture_bytes(sent) == data
    for sent in ("*" * 8, text[:-3], "data:image/png,abc", "data:image/png;base64", "https://example.org/cat.png", "é"):
        with pytest.raises(InvalidParameter) as caught:
            picture_bytes(sent)
        assert caught.value.errors[0].pointer == "/image"


@pytest.mark.parametrize("length", range(40, 48))
def test_base64_of_every_habit(length: int) -> None:
    data = bytes(range(255, 255 - length, -1))  # whose letters are those that the two alphabets do not share
    text, address = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    assert "/" in text
    assert "_" in address
    lines = "\r\n".join(text[i : i + 10] for i in range(0, len(text), 10))
    for sent in (text, address, text.rstrip("="), address.rstrip("="), lines, f"\t{text}\n", text + "=="):
        assert picture_bytes(sent) == data
        for head in (
            "data:image/png;base64,",
            "data:;base64,",
            "DATA:image/png;name=a.png;BASE64,",
            " data:image/png;base64,\n",
        ):
            assert picture_bytes(head + sent) == data
    assert picture_bytes("data:image/png;base64," + quote(text, safe="")) == data


def test_escapes_of_either_case_and_no_others() -> None:
    head = "data:image/png;base64,"
    assert picture_bytes(head + "%2b%2B%2f%2F%0d%0A%3D") == base64.b64decode("++//")
    for sent in ("%41" * 8, "QUJD%", "QUJD%2", "QUJD%25", "%%32B"):
        with pytest.raises(InvalidParameter, match="percent signs that stand for no letter of base64") as caught:
            picture_bytes(head + sent)
        assert caught.value.errors[0].pointer == "/image"


def test_escapes_take_no_more_memory_than_a_few_times_the_text() -> None:
    sent = "data:image/png;base64," + "%2B" * 400_000
    tracemalloc.start()
    try:
        picture_bytes(sent)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(sent)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", range(20, 32))
def test_long_ones_are_read_in_pieces_and_no_other_way(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PIECE", 8)
    decode, lengths = base64.b64decode, []

    def decoded(piece: bytes, *, validate: bool) -> bytes:
        lengths.append(len(piece))
        return decode(piece, validate=validate)

    data = bytes(range(255, 255 - length, -1))
    text, address = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    monkeypatch.setattr(base64, "b64decode", decoded)
    for blanks in range(8):  # so that an escape is cut wherever it can be
        uri = f"data:{' ' * blanks};base64,{quote(text[:blanks] + chr(10) + text[blanks:], safe='')}"
        assert [picture_bytes(sent) for sent in (text, address, f"{text[:5]} {text[5:]}", uri)] == [data] * 4
    assert max(lengths) == 8
    for sent in ("QUI=QUJDQUJD", "QUJDQUI=QUJDQUJD", "QUJDQUJDQUJDQ", "QUJDQUJDQUJD*UJD"):
        with pytest.raises(InvalidParameter, match="not valid base64"):
            picture_bytes(sent)

"""Forms taken apart, against the letter of RFC 2046; in time that is linear in their length."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.bodies import multipart
from service.api.bodies.multipart import Part, taken_apart
from service.errors import MalformedRequest

KIND = "multipart/form-data; boundary=b"
HEAD = b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


def form(*contents: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    return before + b"".join(b"--b\r\n" + HEAD + data + b"\r\n" for data in contents) + b"--b--" + after


@given(st.lists(st.binary(max_size=40).filter(lambda data: b"\r\n--b" not in b"\r\n" + data), max_size=5))
def test_what_was_put_in_comes_out(contents: list[bytes]) -> None:
    assert [part.data for part in taken_apart(form(*contents), KIND)] == contents


@given(st.binary(max_size=60) | st.lists(st.sampled_from([b"--b", b"\r\n", b"--", b"b", b" ", HEAD])).map(b"".join))
def test_any_bytes_are_parts_or_an_error(data: bytes) -> None:
    with suppress(MalformedRequest):
        assert sum(len(part.data) for part in taken_apart(data, KIND)) < len(data)


def test_what_is_around_is_not_read() -> None:
    assert [part.data for part in taken_apart(form(b"x", before=b"hi\r\n", after=b" ho"), KIND)] == [b"x"]
    assert taken_apart(b"--b--\r\n", KIND) == []


def test_a_delimiter_is_a_whole_line() -> None:
    """What only begins like one is a part's data (RFC 2046, 5.1.1); white space may follow it."""
    for data in (b"\r\n--bx\r\n", b"\r\n--b -\r\n", b"\r\n--b-\r\n"):
        assert [part.data for part in taken_apart(form(data), KIND)] == [data]
    padded = b"--b \t\r\n" + HEAD + b"x\r\n--b--"
    assert [part.data for part in taken_apart(padded, KIND)] == [b"x"]


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"content-disposition: form-data; name=a", Part("a", b"x")),
        (b'CONTENT-DISPOSITION:form-data; name="a b"; filename=""', Part("a b", b"x")),
        (b'Content-Disposition: form-data; name="a"; filename="c"\r\nContent-Type: Image/PNG; q=1', None),
        ('Content-Disposition: form-data; name="ä"'.encode(), Part("ä", b"x")),
        (b'Content-Disposition: form-data; name="\xff"', Part("�", b"x")),
    ],
)
def test_heads(head: bytes, part: Part | None) -> None:
    expected = part or Part("a", b"x", True, "image/png")
    assert taken_apart(b"--b\r\n" + head + b"\r\n\r\nx\r\n--b--", KIND) == [expected]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"--b\r\n\r\nx\r\n--b--", "no name"),
        (b"--b\r\nx: y\r\n\r\nx\r\n--b--", "no name"),
        (b"--b\r\n" + b"a: b\r\n" * 3000 + b"\r\nx\r\n--b--", "head does not end within 8,192 bytes"),
        (form(*[b"x"] * 21), "more than 20 parts"),
        (b"--b" + b" " * 300 + b"\r\n", "cut off"),
    ],
)
def test_mistakes(data: bytes, words: str) -> None:
    with pytest.raises(MalformedRequest, match=words):
        taken_apart(data, KIND)


@pytest.mark.parametrize(("count", "read"), [(500, True), (513, False)])
def test_a_name_of_nothing_but_semicolons_is_not_taken_apart(count: int, read: bool) -> None:
    """Each is looked for behind all before it: a form of few bytes would take the loop's time."""
    name = b";" * count
    data = b'--b\r\nContent-Disposition: form-data; name="image"; filename="%s"\r\n\r\nx\r\n--b--' % name
    if read:
        assert taken_apart(data, "multipart/form-data; boundary=b") == [Part("image", b"x", True)]
    else:
        with pytest.raises(MalformedRequest, match="more than 512 semicolons"):
            taken_apart(data, "multipart/form-data; boundary=b")


@pytest.mark.parametrize("piece", [b"\r\n--bx", b"\r\n", b"\r\n-", b"\r\n--b" + b" " * 300])
def test_data_may_be_made_of_what_looks_like_delimiters(piece: bytes) -> None:
    data = piece * (2_000_000 // len(piece))
    assert [part.data for part in taken_apart(form(data), KIND)] == [data]


@pytest.mark.parametrize("piece", [1, 7, 64])
@given(
    contents=st.lists(st.binary(max_size=40).filter(lambda data: b"--b" not in data), max_size=5),
    spaces=st.integers(0, 256),
)
def test_a_delimiter_is_found_wherever_pieces_end(piece: int, contents: list[bytes], spaces: int) -> None:
    body = form(*contents).replace(b"--b\r\n", b"--b" + b" " * spaces + b"\r\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multipart, "_PIECE_BYTES", piece)
        assert [part.data for part in taken_apart(body, KIND)] == contents

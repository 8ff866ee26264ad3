"""Bodies: JSON or a form, within bounds, each mistake named; nothing is left of one that is wrong."""

import asyncio
import http.client
import json
import socket
import tempfile
import threading
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image
from starlette.requests import Request

from service.api.bodies import body
from service.errors import Cancelled, MalformedRequest, TooLarge
from service.settings import Settings
from tests.api.conftest import statuses_of_one_who_sends_all
from tests.api.test_bad_input import PNG, problem
from tests.conftest import CATALOG, encoded, serving

CUT = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc\r\n--x'


@pytest.mark.parametrize(
    ("content", "kind", "status", "words"),
    [
        (b"", "application/json", 400, "the body is empty; send a JSON object"),
        (b"", "multipart/form-data; boundary=x", 400, "the body is empty"),
        (b"[]", "application/json", 400, "has to be a JSON object, not a list"),
        (b"null", "application/json", 400, "has to be a JSON object"),
        (b'{"model": ', "application/json", 400, "not valid JSON"),
        (b'{"timeout_s": NaN}', "application/json", 400, "not valid JSON"),
        (b'{"a":' * 5000, "application/json", 400, "not valid JSON"),
        (b'"\xff"', "application/json; charset=utf-8", 400, "not valid JSON"),
        (PNG, "image/png", 415, "'image/png' is not accepted; send application/json"),
        (PNG, "", 415, "without a content type is not accepted; send application/json"),
        (b"model=tiny", "application/x-www-form-urlencoded", 415, "multipart/form-data with the file in a part named"),
        (b"abc", "multipart/form-data", 400, "boundary"),
        (b"abc", "multipart/form-data; boundary=x", 400, "not valid multipart/form-data"),
        (b"--x\r\nContent-Disp", "multipart/form-data; boundary=x", 400, "cut off before its last boundary"),
        (CUT, "multipart/form-data; boundary=x", 400, "cut off before its last boundary"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\n\r\n--x--\r\n", "multipart/form-data; boundary=x", 400, "name"),
    ],
)
def test_body(client: httpx.Client, content: bytes, kind: str, status: int, words: str) -> None:
    for path in ("/predict", "/explain/cam"):
        found = problem(client.post(path, content=content, headers={"content-type": kind} if kind else {}), status)
        assert words in found.detail


FILE = ("a.png", PNG)


@pytest.mark.parametrize(
    ("parts", "status", "pointer", "words"),
    [
        ([("image", FILE), ("image", FILE)], 400, None, "sent twice"),
        ([("image", FILE)] * 21, 400, None, "more than 20 parts"),
        ([("image", (None, b"abc"))], 400, None, "-F image=@picture.jpg"),
        ([("image", (None, b""))], 400, None, "-F image=@picture.jpg"),
        ([("image", (None, b"cat.jpg", "text/plain"))], 400, None, "-F image=@picture.jpg"),
        ([("image", FILE), ("pictures", (None, b"cat.jpg"))], 400, None, "-F pictures=@picture.jpg"),
        ([("image", FILE), ("request", (None, b'{"pictures": []}')), ("pictures", FILE)], 400, None, "or all of them"),
        ([("imgae", FILE)], 400, None, "unknown part 'imgae'; did you mean 'image'?"),
        ([("image", FILE), ("request", (None, b"{"))], 400, None, "part 'request' is not valid JSON"),
        ([("image", FILE), ("request", (None, b"[]"))], 400, None, "part 'request' has to be a JSON object"),
        ([("image", FILE), ("request", (None, b'{"image": "x"}'))], 422, "/image", "not in part 'request'"),
        ([("request", (None, b"{}"))], 422, "/image", "the request has no picture"),
    ],
)
def test_multipart(client: httpx.Client, parts, status: int, pointer: str | None, words: str) -> None:
    found = problem(client.post("/predict", files=parts), status)
    assert words in found.detail
    assert [e.pointer for e in found.errors] == ([pointer] if pointer else [])


@pytest.mark.parametrize("charset", ["unicode_escape", "punycode", "utf-7", "latin-1"])
def test_no_client_chooses_the_decoder_of_a_form(client: httpx.Client, charset: str) -> None:
    kind = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    found = problem(client.post("/predict", content=form(("image", "", PNG)), headers=kind), 415)
    assert f"charset '{charset}' is not read; send UTF-8" in found.detail


def test_a_caller_who_goes_away_is_no_defect() -> None:
    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    headers = [(b"content-type", b"application/json"), (b"content-length", b"500")]
    with pytest.raises(Cancelled):
        asyncio.run(body.read(Request({"type": "http", "headers": headers}, gone), 1000, 60.0, 4096.0))


def read(content: bytes, kind: str = "multipart/form-data; boundary=x") -> body.Body:
    """Read a body that has arrived in pieces."""
    pieces = [content[i : i + 7] for i in range(0, len(content), 7)] or [b""]
    waiting = iter(pieces)

    async def receive() -> dict[str, object]:
        piece = next(waiting)
        return {"type": "http.request", "body": piece, "more_body": piece is not pieces[-1]}

    headers = [(b"content-type", kind.encode())]
    return asyncio.run(body.read(Request({"type": "http", "headers": headers}, receive), 10**6, 60.0, 4096.0))


def form(*parts: tuple[str, str, bytes]) -> bytes:
    lines = [
        b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name.encode(), more.encode(), data)
        for name, more, data in parts
    ]
    return b"".join([*lines, b"--x--\r\n"])


def test_a_form_is_taken_apart() -> None:
    data = bytes(range(256)) * 20
    assert read(form(("image", '; filename="a.png"', data))) == body.Body({}, data)
    both = form(("request", "", b'{"targets": [1]}'), ("image", '; filename=""', data))
    assert read(both) == body.Body({"targets": [1]}, data)
    assert read(b'{"image": "abc"}', "application/json; charset=utf-8") == body.Body({"image": "abc"}, None)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", True),
        ("é".encode() * 40_000, True),  # of whose beginning the last letter is cut
        (b"x" + "é".encode() * 40_000, True),
        ("é".encode()[:1], False),
        (b"x" * 5000 + b"\0", True),  # no picture begins with so much text
        (b"x" * 4000 + b"\0" + b"x" * 40_000, False),
    ],
)
def test_a_text_is_known_by_its_beginning(data: bytes, text: bool) -> None:
    assert body._is_text(data) is text


@pytest.mark.parametrize("cut", range(0, 200, 9))
def test_a_form_is_whole_or_none(cut: int) -> None:
    whole = form(("image", '; filename="a.png"', b"p" * 40), ("request", '; filename="r"', b"{}"))
    if cut:
        with pytest.raises(MalformedRequest, match=r"cut off before its last boundary|boundary is not in it"):
            read(whole[: len(whole) - 2 - cut])
    else:
        assert read(whole).image == b"p" * 40


def _part(header: str, data: bytes) -> bytes:
    return b"--x\r\n" + header.encode(errors="surrogateescape") + b"\r\n\r\n" + data + b"\r\n"


@pytest.mark.parametrize(
    "header",
    [
        'Content-Disposition: form-data; name="image"',
        'Content-Disposition: form-data; name="image"\r\nContent-Type: image/jpeg',
        'Content-Disposition: form-data; name="image"\r\nContent-Type: application/octet-stream',
        "Content-Disposition: form-data; name=\"image\"; filename*=UTF-8''%E7%8C%AB.jpg",
        "Content-Disposition: form-data; name=image; filename=猫.jpg",
        'Content-Disposition: form-data; name="image"; filename="C:\\fakepath\\a.jpg"',
        'Content-Disposition: form-data; name="image"; filename="=?utf-8?Q?caf=C3=A9?="',
        'Content-Disposition: form-data; name="image"; filename="caf\udce9.jpg"',  # a byte of Latin-1
        r'Content-Disposition: form-data; name="image"; filename="a \"quoted\" name.jpg"',
        "Content-Disposition: form-data; name=image; filename=a.jpg; filename*=utf-8''a.jpg",
        'Content-Disposition: form-data; name="image"; filename=""',
        'content-type: image/png\r\ncontent-disposition: form-data; name="image"; size=3',
    ],
)
@pytest.mark.parametrize("request_part", [None, b"", b" \r\n", b'{"top_k": 2}'])
def test_a_picture_is_a_file_however_its_part_is_headed(header: str, request_part: bytes | None) -> None:
    named = 'Content-Disposition: form-data; name="request"\r\nContent-Type: application/json'
    more = b"" if request_part is None else _part(named, request_part)
    found = read(_part(header, PNG) + more + b"--x--\r\n")
    assert found.image == PNG
    assert found.fields == ({"top_k": 2} if request_part and request_part.strip() else {})


@pytest.mark.parametrize("coding", ["br", "gzip, identity"])
def test_a_body_in_another_coding_is_refused_by_name(client: httpx.Client, coding: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": coding}
    found = problem(client.post("/predict", content=b"{}", headers=headers), 415)
    assert f"content encoding '{coding}' is not accepted; send the body as it is" in found.detail
    assert client.post("/predict", content=b"{}", headers=headers | {"content-encoding": "identity"}).status_code == 422


def test_nothing_is_written_to_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose root file system may be read-only."""
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda *_, **__: pytest.fail("a file on disk"))
    data = b"p" * 900_000
    assert read(form(("image", '; filename="a.png"', data))).image == data


def test_a_picture_may_be_of_any_length_in_json() -> None:
    text = json.dumps({"pictures": ["y" * 300_000]}).encode()
    assert read(form(("request", "", text))).fields == json.loads(text)


def test_large_bodies_are_taken_apart_by_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    monkeypatch.setattr(body, "parsed", lambda data, what: threads.append(threading.current_thread()) or {})
    for size, own in ((body.SMALL_BODY, True), (body.SMALL_BODY + 1, False)):
        read(b" " * size, "application/json")
        assert (threads.pop() is threading.current_thread()) == own


def test_what_is_too_much_is_not_waited_for() -> None:
    """The items of JSON are counted while it comes in."""
    pieces = iter([b'{"image": [' + b"[]," * 20_000])  # and no end

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": next(pieces), "more_body": True}

    headers = [(b"content-type", b"application/json")]
    with pytest.raises(TooLarge, match="commas"):
        asyncio.run(body.read(Request({"type": "http", "headers": headers}, receive), 10**6, 60.0, 4096.0))


# Limits

LIMITS = Settings(catalog=CATALOG, device="cpu", max_image_bytes=2000)
REFUSED = [
    ("/predict", "application/json", 413),
    ("/predict", "multipart/form-data; boundary=x", 413),
    ("/predict", "image/jpeg", 415),
    ("/explain/nothing", "application/json", 404),
    ("/models", "application/json", 405),
]


@pytest.fixture(scope="module")
def narrow() -> Iterator[httpx.Client]:
    """A server that accepts little."""
    with serving(LIMITS) as client:
        yield client


def test_a_client_goes_on_after_bodies_that_are_too_large(narrow: httpx.Client) -> None:
    small, large = encoded(Image.new("RGB", (8, 8))), bytes(LIMITS.max_body_bytes)
    answers = [narrow.post("/predict", files={"image": data}).status_code for data in (small, large) * 3]
    assert answers == [200, 413] * 3


@pytest.mark.parametrize(("path", "kind", "status"), REFUSED)
def test_a_refusal_reaches_who_is_still_sending(narrow: httpx.Client, path: str, kind: str, status: int) -> None:
    assert statuses_of_one_who_sends_all(narrow, path, kind) == [status, 200]


@pytest.mark.parametrize("length", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
def test_body_limit_is_found_before_the_body_ends(narrow: httpx.Client, length: bytes) -> None:
    chunks = b"" if b"Length" in length else 5 * (b"10000\r\n" + bytes(0x10000) + b"\r\n")  # 320 KiB, and no end
    with socket.create_connection((narrow.base_url.host, narrow.base_url.port), timeout=10) as raw:
        raw.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + length + b"\r\n\r\n")
        raw.sendall(chunks)
        response = http.client.HTTPResponse(raw)
        response.begin()
        assert response.status == 413
        assert f"{LIMITS.max_body_bytes:,}" in json.loads(response.read())["detail"]
        assert 0 <= LIMITS.max_body_bytes - (4 / 3 * 2000 + 256 * 1024) < 1000

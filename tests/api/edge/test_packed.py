"""Bodies that are sent packed: unpacked in bounds, and each that is none named."""

import asyncio
import gzip
import json
import zlib

import pytest

from service.api.edge.packed import Stream, _Unpacking
from service.app import create_app
from service.errors import MalformedRequest, TooLarge
from service.settings import Settings
from tests.api.test_contract import BASE64, lasting
from tests.conftest import CATALOG, serving_app

TEXT = bytes(range(256)) * 2000 + b"x" * 300_000


def raw(data):
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(data) + coder.flush()


CODINGS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "Deflate": raw}


def unpacked(coding, pieces):
    stream = Stream(coding)
    found = [piece for data in pieces for piece in stream.feed(data)]
    stream.end()
    assert all(len(piece) <= 64 * 1024 for piece in found)
    return b"".join(found)


@pytest.mark.parametrize("size", [1, 7, 5000, 10**9])
@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("gzip", gzip.compress(TEXT[:1000]) + gzip.compress(b"") + gzip.compress(TEXT[1000:])),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", zlib.compress(TEXT, 0)),
        ("deflate", raw(TEXT)),
    ],
)
def test_what_was_packed_comes_out_however_it_is_cut(coding, data, size):
    assert unpacked(coding, [data[i : i + size] for i in range(0, len(data), size)]) == TEXT


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", gzip.compress(TEXT)[:-1]),
        ("gzip", gzip.compress(TEXT) + b"more"),
        ("gzip", gzip.compress(TEXT)[:-8] + b"\0" * 8),
        ("gzip", zlib.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)[:-1]),
        ("deflate", zlib.compress(TEXT) + b"more"),
        ("deflate", b"x"),
        ("deflate", b"\xff\xff\xff"),
    ],
)
def test_what_is_not_packed_so_is_said_to_be_not(coding, data):
    with pytest.raises(MalformedRequest, match=coding):
        unpacked(coding, [data])


@pytest.mark.parametrize("coding", CODINGS)
def test_every_body_may_be_packed(client, coding):
    for path, fields in (("/predict", {}), ("/explain/cam", {}), ("/v1/models/tiny:predict", None)):
        body = {"image": BASE64} | fields if fields is not None else {"instances": [BASE64]}
        plain, headers = json.dumps(body).encode(), {"content-type": "application/json"}
        packed = CODINGS[coding](plain)
        sent = client.post(path, content=packed, headers=headers | {"content-encoding": coding})
        assert sent.status_code == 200, sent.text
        found, expected = sent.json(), client.post(path, content=plain, headers=headers).json()
        assert (lasting(found) == lasting(expected)) if "usage" in found else (found == expected)
        cut = client.post(path, content=packed[:-5], headers=headers | {"content-encoding": coding})
        assert cut.status_code == 400
        assert "cut off" in cut.text


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "é"])
def test_other_codings_are_refused_with_those_that_are_not(client, coding):
    headers = {"content-type": "application/json", "content-encoding": coding.encode()}
    response = client.post("/predict", content=b"x", headers=headers)
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "gzip, deflate"
    assert "gzip or deflate" in response.json()["detail"]
    assert client.post("/predict", content=b"{}", headers=headers | {"content-encoding": "identity"}).status_code == 422


def test_bounds_are_of_what_comes_out():
    settings = Settings(catalog=CATALOG, model="tiny", device="cpu", max_image_bytes=2**20, bodies_mib=1)
    with serving_app(create_app(settings)) as client:
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        body = gzip.compress(b" " * 50_000_000)
        assert len(body) < 50_000
        response = client.post("/predict", content=body, headers=headers)
        assert response.status_code == 429  # all bodies together have a mebibyte
        assert "fill" in response.json()["detail"]
        assert client.post("/predict", content=gzip.compress(b" " * 100_000), headers=headers).status_code == 400
    settings = Settings(catalog=CATALOG, model="tiny", device="cpu", max_image_bytes=2**20)
    with serving_app(create_app(settings)) as client:
        response = client.post("/predict", content=body, headers=headers)
        assert response.status_code == 413
        assert f"{settings.max_body_bytes:,}" in response.json()["detail"]


def test_others_have_their_turn_while_a_body_is_unpacked():
    turns, size = asyncio.run(counted(gzip.compress(b" " * 10_000_000)))
    assert size == 10_000_000
    assert turns >= size // 65536


async def counted(body):
    """Return how many turns others have while a body is unpacked, and bytes of what came out."""

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def count():
        turns, done = 0, False

        async def other():
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        unpacking, size = _Unpacking(receive, "gzip", 10**9), 0
        while (message := await unpacking.receive())["more_body"]:
            size += len(message["body"])
        done = True
        await task
        return turns, size

    return await count()


NOTHING = gzip.compress(b"")


def test_others_have_their_turn_also_where_nothing_comes_out():
    turns, size = asyncio.run(counted(NOTHING * 900))
    assert size == 0
    assert turns >= 900
    turns, size = asyncio.run(counted(gzip.compress(b"x" * 64) * 3000))  # small ones, but of something
    assert size == 64 * 3000
    assert turns >= 3000


@pytest.mark.parametrize("member", [NOTHING, gzip.compress(b"x"), gzip.compress(b"x" * 63)], ids=["0", "1", "63"])
def test_a_body_of_next_to_nothing_again_and_again_is_refused(member):
    pieces = Stream("gzip").feed(member * 1002)
    with pytest.raises(MalformedRequest, match="1,001 files of gzip"):
        list(pieces)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_packed_bytes_are_bounded_also_where_nothing_comes_out(coding):
    """Empty blocks within one member cost little each, and never come to an end."""
    empty = {"gzip": NOTHING[:10], "deflate": b"\x78\x9c"}[coding]
    sent = iter([empty, *[b"\0\0\0\xff\xff" * 2000] * 10])

    async def receive():
        return {"type": "http.request", "body": next(sent), "more_body": True}

    with pytest.raises(TooLarge, match="more than the 50,000 bytes"):
        asyncio.run(_Unpacking(receive, coding, 50_000).receive())
    assert next(sent)  # not all of it was asked for

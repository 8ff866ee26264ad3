"""What operators rely on, around every request: keys, bounds, slow clients."""

import asyncio
import http.client
import re
import socket
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from service.api.bodies.body import SMALL_BODY
from service.api.middleware import Bodies
from service.app import create_app
from service.errors import Overloaded
from service.settings import Settings
from tests.api.conftest import PATIENCE_S, addresses, holding, statuses_of_one_who_sends_all
from tests.conftest import CATALOG, serving

HEALTH = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
LONG = {"params": {"window": 8, "stride": 1}}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("from-the-file\nanother\n")
    with serving(Settings(catalog=CATALOG, device="cpu", api_keys="one,two,schlüssel", api_keys_file=file)) as client:
        yield client


# What is not there tells nothing either, and neither does another verb.
EVERYTHING = [
    *addresses(create_app(Settings(catalog=CATALOG))),
    *(("GET", path) for path in ("/nothing", "/docs/", "/uiless", "/ui", "/docs/../models", "/openapi.jsonl")),
    *(("POST", path) for path in ("/", "/docs", "/openapi.json", "/ui/docs/start.js", "/ui/../predict")),
]


def _is_open(verb, path):
    pages = path in ("/", "/docs", "/openapi.json") or path.startswith("/ui/")
    return path in HEALTH or (pages and verb in ("GET", "HEAD"))


@pytest.mark.parametrize(("verb", "path"), [found for found in EVERYTHING if not _is_open(*found)])
def test_nothing_but_health_and_pages_answers_without_a_key(guarded, verb, path):
    response = guarded.request(verb, path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["type"] == "urn:heatlens:problem:unauthorized"
    assert "Authorization: Bearer" in response.json()["detail"]


def test_whoever_sends_a_large_body_without_a_key_reads_why_it_is_refused(guarded):
    assert statuses_of_one_who_sends_all(guarded, "/predict", "application/json") == [401, 200]


@pytest.mark.parametrize(("verb", "path"), [found for found in EVERYTHING if _is_open(*found)])
def test_health_and_pages_answer_everybody(guarded, verb, path):
    assert guarded.request(verb, path).status_code in (200, 404)  # a 404 where the address made up here is none


def test_what_answers_everybody_tells_nothing_of_models_or_keys(guarded):
    for path in ("/", "/docs", "/openapi.json", "/ui/docs/start.js"):
        assert not re.search("tiny|schlüssel|from-the-file", guarded.get(path).text), path


@pytest.mark.parametrize("key", ["one", "two", "from-the-file", "another", "schlüssel"])
def test_every_key_opens(guarded, key):
    sent = {"authorization": f"Bearer {key}".encode()}
    assert guarded.get("/models", headers=sent).status_code == 200


@pytest.mark.parametrize("header", ["one", "Basic one", "Bearer", "Bearer on", "Bearer one two", "Bearer \xe9"])
def test_anything_else_does_not(guarded, header):
    assert guarded.get("/models", headers={"authorization": header.encode("latin-1")}).status_code == 401


def test_a_page_of_another_site_cannot_send_a_form(client, chelsea):
    form = {"image": ("a.png", chelsea)}
    for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
        headers = {"sec-fetch-site": site, "origin": "https://page.example"}
        assert client.post("/predict", files=form, headers=headers).status_code == status
    assert client.get("/methods", headers={"sec-fetch-site": "cross-site"}).status_code == 200
    with serving(Settings(catalog=CATALOG, device="cpu", cors_origins="https://page.example")) as open_:
        for origin, status in (("https://page.example", 200), ("https://other.example", 403)):
            headers = {"sec-fetch-site": "cross-site", "origin": origin}
            assert open_.post("/predict", files=form, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://page.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("http://heat.example.page.example", 403),
        ("http://heat.example:3000", 200),  # another port of the same host is the same site
        ("http://HEAT.example", 200),
        (None, 200),
    ],
)
def test_nor_can_one_that_came_over_plain_http(client, chelsea, origin, status):
    """Of such a page browsers say to other machines nothing but its origin."""
    headers = {"host": "heat.example:8000"} | ({"origin": origin} if origin is not None else {})
    answer = client.post("/predict", files={"image": ("a.png", chelsea)}, headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert "HEATLENS_CORS_ORIGINS" in answer.json()["detail"]
    assert client.get("/methods", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/predict/", "/models/", "//predict"])
def test_nobody_is_sent_elsewhere(client, path):
    answer = client.post(path, headers={"host": "elsewhere.example"})
    assert answer.status_code in (404, 405)
    assert "location" not in answer.headers


def test_no_cors_unless_set(client):
    asked = {"origin": "https://page.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in client.options("/predict", headers=asked).headers
    with serving(Settings(catalog=CATALOG, device="cpu", cors_origins="https://page.example")) as open_:
        allowed = open_.options("/predict", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://page.example"
        other = open_.options("/predict", headers=asked | {"origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


def _samples(text):
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[:1] not in "#"
    }


def _raw(client, data, *, end=True):
    place = urlsplit(str(client.base_url))
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(data)
        if end:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        with suppress(ConnectionResetError):  # closed while we still had something to say
            while chunk := connection.recv(65536):
                received += chunk
        return received


def test_a_slow_body_is_not_waited_for_for_ever():
    with serving(Settings(catalog=CATALOG, device="cpu", body_timeout_s=0.3)) as client:
        head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n"
        answer = _raw(client, head + b"connection: close\r\n\r\n{", end=False)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"too-slow" in answer


def test_half_a_body_many_headers_and_pipelines_leave_the_server_well(client):
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    _raw(client, head + b"content-length: 99\r\n\r\n{")
    many = b"".join(b"x-%d: y\r\n" % i for i in range(1250))  # 10,000 bytes and more
    long = head + many + b"connection: close\r\ncontent-length: 2\r\n\r\n{}"
    assert _raw(client, long, end=False).startswith(b"HTTP/1.1 422")
    assert b" 200 " not in _raw(client, head + b"x-long: " + b"y" * 200_000 + b"\r\n\r\n", end=False)
    live = b"GET /health/live HTTP/1.1\r\nhost: x\r\n"
    answers = _raw(client, (live + b"\r\n") * 20 + live + b"connection: close\r\n\r\n", end=False)
    assert answers.count(b'{"status":"live"}') == 21
    assert client.get("/health/ready").status_code == 200


# Bounds


def test_nothing_is_read_of_a_request_that_will_be_turned_away(body):
    page = "https://page.example"
    app = create_app(Settings(catalog=CATALOG, device="cpu", max_waiting_passes=600, cors_origins=page))
    with holding(app) as held:
        with held.busy(json=body(**LONG)):
            # Half a body: an answer can only come from a server that does not wait for the rest.
            connection = http.client.HTTPConnection(urlsplit(str(held.client.base_url)).netloc, timeout=PATIENCE_S)
            connection.putrequest("POST", "/predict")
            connection.putheader("content-type", "application/json")
            connection.putheader("content-length", "1000000")
            connection.putheader("origin", page)
            connection.endheaders(b"{")
            refused = connection.getresponse()
            assert refused.status == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["access-control-allow-origin"] == page  # so that a page may read why
            assert refused.headers["x-request-id"]
            connection.close()
        counted = _samples(held.client.get("/metrics").text)
        assert counted['heatlens_requests_total{method="predict",model="none",status="429"}'] == 1


def test_bodies_are_bounded_together():
    async def reading(scope, receive, send):
        while (await receive())["more_body"]:
            pass

    async def run():
        bodies, begun, go = Bodies(reading, max_bytes=100), asyncio.Event(), asyncio.Event()

        async def slowly():
            if bodies.held:
                begun.set()
                await go.wait()
            return {"type": "http.request", "body": b" " * 30, "more_body": not go.is_set()}

        async def at_once():
            return {"type": "http.request", "body": b" " * 60, "more_body": False}

        slow_one = asyncio.create_task(bodies({"type": "http"}, slowly, None))
        await begun.wait()
        assert bodies.held == 30
        await bodies({"type": "http"}, at_once, None)
        assert bodies.held == 30
        bodies.all.total = 80
        with pytest.raises(Overloaded, match="under way fill"):
            await bodies({"type": "http"}, at_once, None)
        assert bodies.held == 30
        go.set()
        await slow_one
        assert bodies.held == 0

    asyncio.run(run())


def _sent(bodies, caller, size):
    """Return the sender of a body that is held until its answer is there: what it holds, or that it was refused."""

    async def once():
        return {"type": "http.request", "body": b" " * size, "more_body": False}

    return bodies({"type": "http", "client": (caller, 1)}, once, None)


def test_one_callers_bodies_leave_room_for_others():
    part = SMALL_BODY * 2  # a large one

    async def run():
        go, begun = asyncio.Event(), asyncio.Semaphore(0)

        async def reading(scope, receive, send):
            await receive()
            begun.release()
            await go.wait()

        bodies, held = Bodies(reading, max_bytes=16 * part), []

        async def hold(caller, size):
            held.append(asyncio.create_task(_sent(bodies, caller, size)))
            await begun.acquire()

        for caller in ("a", "b"):
            while bodies.all.within(caller):
                await hold(caller, part)
        for caller in ("a", "b"):
            with pytest.raises(Overloaded, match="your requests under way fill your part"):
                await _sent(bodies, caller, part)
            await hold(caller, 100)  # a small one, all the same
        assert bodies.all.by["a"] + bodies.all.by["b"] <= 14 * part
        await hold("c", part)
        while bodies.all.fits(part + bodies.small.total):
            await hold("", part)
        with pytest.raises(Overloaded, match="the bodies of requests under way fill the"):
            await _sent(bodies, "d", part)
        await hold("d", 100)
        assert bodies.held <= 16 * part
        go.set()
        await asyncio.gather(*held)
        assert bodies.held == bodies.small.held == 0

    asyncio.run(run())


def test_a_body_that_finds_no_room_is_refused(body):
    with serving(Settings(catalog=CATALOG, device="cpu", bodies_mib=1)) as client:
        kind = {"content-type": "application/json"}
        refused = client.post("/predict", content=b" " * 1_200_000, headers=kind)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:heatlens:problem:overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert client.post("/predict", json=body()).status_code == 200

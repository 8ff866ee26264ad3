"""The contract's page: all of it from here, behind any prefix, and under a policy that lets nothing else in."""

import asyncio
import hashlib
import http.client
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from service.api.pages.docs import FOLDER, router
from service.api.pages.files import CSP, files

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VENDORED = "swagger-ui/"
PLACE = f"/ui/{FOLDER}"
PARTS = {path.removeprefix(FOLDER): file.content for path, file in files().items() if path.startswith(FOLDER)}


class Addresses(HTMLParser):
    """All that a page loads or leads to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("href", "src", "action")]


def test_the_page_is_made_of_files_of_this_server(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    found = Addresses(page.text).found
    assert "openapi.json" in found
    for address in set(found) - {"data:,"}:
        assert re.fullmatch(r"[a-z][\w./-]*", address), "neither another host nor the root, so that a prefix may stand"
        answer = client.get(f"/{address}")
        assert answer.status_code == 200
        assert answer.content
    for name in ("index.html", "start.js"):
        assert not re.search(r"\w+://|[\"'(]/", PARTS[name].decode()), name
    assert client.get("/redoc").status_code == 404


@pytest.mark.parametrize("path", ["/docs", *(PLACE + path for path in PARTS)])
def test_nothing_but_this_server_may_be_loaded(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    rules = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
    assert answer.headers["content-security-policy"] == CSP
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"  # and nothing inline
    assert not re.search(r"\w\.\w|\*|unsafe", answer.headers["content-security-policy"])


def test_what_a_browser_has_is_not_sent_again(client: httpx.Client) -> None:
    tags = set()
    for path in PARTS:
        first = client.get(PLACE + path)
        assert (
            first.headers["cache-control"] == "no-cache"
        )  # asked for each time, so that a new version is seen at once
        again = client.get(PLACE + path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert client.get(PLACE + path, headers={"if-none-match": '"another"'}).status_code == 200
        tags.add(first.headers["etag"])
    assert len(tags) == len(PARTS)


@pytest.mark.parametrize("path", ["../../app.py", "..%2f..%2fapp.py", "%2e%2e/%2e%2e/app.py", "/etc/passwd", "", "x"])
def test_no_address_leads_elsewhere_on_the_disk(client: httpx.Client, path: str) -> None:
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=60)
    connection.request("GET", PLACE + path)  # as it stands: a client of more manners would resolve it
    assert connection.getresponse().status == 404
    connection.close()


def test_what_is_not_ours_is_unchanged_and_has_its_licence() -> None:
    told = dict(re.findall(r"\| `(\S+)` \| `([0-9a-f]{64})` \|", PARTS[f"{VENDORED}README.md"].decode()))
    there = {path.removeprefix(VENDORED): found for path, found in PARTS.items() if path.startswith(VENDORED)}
    assert told == {path: hashlib.sha256(one).hexdigest() for path, one in there.items() if path != "README.md"}
    assert b"Apache License" in there["LICENSE"]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_shows_every_operation(client: httpx.Client, tmp_path: Path) -> None:
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}"]
    command = [str(CHROMIUM), *options, "--virtual-time-budget=60000", "--dump-dom", f"{client.base_url}/docs"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    paths = client.get("/openapi.json").json()["paths"]
    assert len(re.findall(r'class="opblock opblock-', shown.stdout)) == sum(len(item) for item in paths.values())
    assert "Authorize" in shown.stdout
    assert not re.findall(r".*CONSOLE.*", shown.stderr)  # where what the policy forbids would be told


def test_the_contract_is_written_once_and_the_loop_goes_on_meanwhile() -> None:
    app, threads = FastAPI(openapi_url=None), []
    app.include_router(router)
    app.openapi = lambda: threads.append(threading.get_ident()) or {"openapi": "3.1.0"}  # type: ignore[method-assign]

    async def ask(under: str) -> list[bytes]:
        transport = httpx.ASGITransport(app, root_path=under)
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
            return [answer.content for answer in await asyncio.gather(*(http.get("/openapi.json") for _ in range(3)))]

    assert asyncio.run(ask("")) == [b'{"openapi":"3.1.0"}'] * 3
    assert asyncio.run(ask("/under")) == [b'{"openapi":"3.1.0","servers":[{"url":"/under"}]}'] * 3
    assert len(threads) == 2
    assert threading.get_ident() not in threads

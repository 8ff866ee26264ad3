"""The page at `/` is for people, and a sign of life for programs."""

import re
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from service import rendering
from service.api.pages.docs import FOLDER
from service.api.pages.files import CSP, files
from service.app import create_app
from service.settings import Settings
from tests.api.test_bad_input import problem
from tests.conftest import CATALOG

UI = Path(rendering.__file__).parents[1] / "ui"
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def _open(**settings: object) -> TestClient:
    return TestClient(create_app(Settings(catalog=CATALOG, device="cpu", **settings)), base_url="http://localhost")


def test_browsers_get_the_page_and_programs_a_sign_of_life(client: httpx.Client) -> None:
    page = client.get("/", headers=BROWSER)
    assert page.text == (UI / "index.html").read_text("utf-8")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == CSP
    for accept in ("*/*", "application/json"):
        assert client.get("/", headers={"accept": accept}).json() == {"status": "alive"}
    head = client.head("/", headers=BROWSER)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == page.headers["content-length"]
    assert client.post("/").status_code == 405


@pytest.mark.parametrize("path", ["nothing.js", "../settings.py", "%2e%2e/app.py", "texts/", ""])
def test_nothing_else_is_served(client: httpx.Client, path: str) -> None:
    problem(client.get(f"/ui/{path}"), 404, "not-found")


def test_the_page_is_for_those_without_a_key(client: httpx.Client) -> None:
    locked = _open(api_keys=("secret",))
    assert locked.get("/", headers=BROWSER).status_code == 200
    assert locked.get("/ui/app.js").status_code == 200
    assert locked.post("/ui/app.js").status_code == 401
    assert locked.get("/methods").status_code == 401


def test_the_page_may_be_left_out() -> None:
    bare = _open(page=False)
    assert bare.get("/", headers=BROWSER).json() == {"status": "alive"}
    assert bare.get("/ui/app.js").status_code == 404
    for path in files():
        assert bare.get(f"/ui/{path}").status_code == (200 if path.startswith(FOLDER) else 404)


def test_modules_are_fetched_at_once_and_not_one_after_the_other() -> None:
    """A browser finds a module's imports when it has the module: those of all of them stand in the page."""
    page = (UI / "index.html").read_text("utf-8")
    preloaded = set(re.findall(r'rel="modulepreload" href="ui/([^"]+)"', page))
    needed, found = {"app.js"}, set()
    while needed:
        name = needed.pop()
        found.add(name)
        text = (UI / name).read_text("utf-8")
        for path in re.findall(r'^(?:import|export) [^"]*from "(\.[^"]+)";$', text, re.MULTILINE):
            needed |= {str((UI / name).parent.joinpath(path).resolve().relative_to(UI))} - found
    assert preloaded == found - {"app.js"}

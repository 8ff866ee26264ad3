"""The page is whole, small, kept by browsers, for everybody, and of this server alone."""

import gzip
import hashlib
import re
from base64 import b64decode
from pathlib import Path

import httpx
import numpy as np
import pytest

from service import rendering
from service.api.pages.files import files
from service.client import wire
from service.explainers.base import registry
from tests import vendored

UI = Path(rendering.__file__).parents[1] / "ui"
OURS = sorted(name for name in files() if not name.startswith("docs/") and name.endswith((".js", ".css", ".html")))
LANGUAGES = sorted((UI / "texts").glob("*.js"))


@pytest.mark.parametrize("name", OURS)
def test_every_file_is_served_and_kept(client: httpx.Client, name: str) -> None:
    plain = client.get(f"/ui/{name}", headers={"accept-encoding": "identity"})
    assert plain.content == (UI / name).read_bytes()
    assert (
        plain.headers["content-type"].partition(";")[0]
        == {
            "js": "text/javascript",
            "css": "text/css",
            "html": "text/html",
        }[name.rpartition(".")[2]]
    )
    assert plain.headers["cache-control"] == "no-cache"
    again = client.get(f"/ui/{name}", headers={"if-none-match": f'"other", {plain.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", plain.headers["etag"])
    assert client.get(f"/ui/{name}", headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [("gzip, br", True), ("br;q=1, GZIP;q=0.5", True), ("gzip;q=0", False), ("identity", False), ("", False)],
)
def test_files_are_packed_for_those_who_take_it(client: httpx.Client, accepted: str, packed: bool) -> None:
    with client.stream("GET", "/ui/app.js", headers={"accept-encoding": accepted}) as response:
        content = b"".join(response.iter_raw())
    assert (response.headers.get("content-encoding") == "gzip") == packed
    assert response.headers["vary"] == "accept-encoding"
    assert (gzip.decompress(content) if packed else content) == (UI / "app.js").read_bytes()


def test_it_is_small() -> None:
    """All that a browser takes, in whichever language that takes most, with what is vendored."""
    sizes = {name: len(gzip.compress(files()[name].content, 9)) for name in OURS}
    languages = [size for name, size in sizes.items() if name.startswith("texts/")]
    assert sum(sizes.values()) - sum(languages) + max(languages) <= 60_000, sizes


def test_it_asks_no_other_host() -> None:
    """Links that people follow, and names of namespaces, are no requests."""
    for name in OURS:
        text = files()[name].content.decode()
        if name.startswith("vendor/"):
            continue
        assert not re.findall(r"(?:src|href)=[\"'](?:https?:)?//", text), name
        assert not re.findall(r"https?://(?!www\.w3\.org)", text), name
        for found in re.findall(r"(?:from|import)\s*\(?\s*[\"'`]([^\"'`]+)", text):
            assert found.startswith("./"), (name, found)


def test_nothing_is_inline() -> None:
    page = (UI / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", page)
    assert not re.search(r"innerHTML|dangerouslySetInnerHTML|\beval\(|new Function", "".join(map(_text, OURS)))


def _text(name: str) -> str:
    return "" if name.startswith("vendor/") else files()[name].content.decode()


def test_what_is_vendored_is_what_was_published() -> None:
    said = (UI / "vendor" / "README.txt").read_text("utf-8")
    found = sorted(name for name in files() if name.startswith("vendor/") and name.endswith(".js"))
    for name in found:
        assert f"{hashlib.sha256(files()[name].content).hexdigest()}  {name.removeprefix('vendor/')}" in said
        assert (UI / name).with_name("LICENSE.txt").exists()


def test_all_that_is_vendored_can_be_fetched_again() -> None:
    """By the script that compares it with what was published, which needs a package index."""
    texts = "\n".join(path.read_text("utf-8") for path in vendored.DOCUMENTS)
    assert vendored.versions(texts).keys() == vendored.FILES.keys()
    there = {name for name in files() if name.startswith(("vendor/", "docs/swagger-ui/")) and "README" not in name}
    assert {name for found in vendored.FILES.values() for name in found} == there


def test_colour_maps_are_those_that_the_server_draws_with(client: httpx.Client) -> None:
    offered = client.get("/ui/colormaps.json").json()
    first = {one["kind"]: one["name"] for one in reversed(offered)}
    assert first == {"sequential": wire.SEQUENTIAL, "diverging": wire.DIVERGING}
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    for one in offered:
        drawn = rendering.colours(ramp, signed=False, colormap=one["name"])
        assert b64decode(one["colors"]) == drawn.tobytes()


def test_sample_pictures_are_served(client: httpx.Client) -> None:
    for name in ("astronaut", "chelsea", "coffee"):
        assert client.get(f"/ui/photographs/{name}.jpg").headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize("path", LANGUAGES, ids=lambda path: path.stem)
def test_every_method_has_its_two_sentences(path: Path) -> None:
    """Keys are looked for in the file's text: the page has no build that could check them, nor has Python."""
    text = path.read_text("utf-8")
    section = text[text.index("\n  methods: {") : text.index("\n  questions: {")]
    for name in registry():
        key = name if name.isidentifier() else f'"{name}"'
        means, cannot = re.search(rf'\n    {re.escape(key)}: \["(.+?)", "(.+?)"\],\n', section).groups()  # type: ignore[union-attr]
        assert means != cannot
    assert len(re.findall(r"\n    \S+: \[", section)) == len(registry())


def test_languages_say_the_same_things() -> None:
    keys = {
        path.stem: re.findall(r"^\s*(\"?[\w+-]+\"?): ?[\[{\"]", path.read_text("utf-8"), re.M) for path in LANGUAGES
    }
    assert keys["en"] == keys["zh"]
    fills = {path.stem: re.findall(r"\{(\w+)\}", path.read_text("utf-8")) for path in LANGUAGES}
    assert sorted(fills["en"]) == sorted(fills["zh"])


def test_every_text_that_is_asked_for_is_there() -> None:
    texts = LANGUAGES[0].read_text("utf-8")
    for name in OURS:
        for key in re.findall(r"\bt\(\"([\w.-]+)\"", _text(name)):
            assert re.search(rf"\b{key.split('.')[0]}\b\"?:", texts), key

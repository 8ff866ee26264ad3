"""The table of formats: each row says the same of one answer, and draws no more than it shows."""

import base64
import io
import json
import zipfile
from dataclasses import replace

import httpx
import numpy as np
import numpy.typing as npt
import orjson
import pytest
from PIL import Image

from service.answer import Answer, Needs
from service.api import formats
from service.api.formats import TABLE, Format
from service.ask import Ask
from service.client import wire
from service.engine.scheduler.run import Run
from service.errors import InvalidParameter
from service.explainers.base import registry
from service.rendering import drawing
from tests.api.test_contract import METHODS, PNG, TARGETED, answer, lasting, picture, post

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
FIREFOX = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/png,image/svg+xml,*/*;q=0.8"
)
RAMP = np.linspace(-1, 3, 16, dtype=np.float32).reshape(4, 4)
ONE = [row for row in TABLE if row.needs.maps == 1 and row.needs.pictures == "best"]


@pytest.fixture
def drawings(monkeypatch) -> list[str]:
    """What has been drawn since the last look."""
    found: list[str] = []
    for name in ("heatmap", "overlay"):
        draw = getattr(drawing, name)

        def counting(*args, draw=draw, name=name):
            drawn = draw(*args)
            if drawn is not None:
                found.append(name)
            return drawn

        monkeypatch.setattr(drawing, name, counting)
    return found


def _events(text: str) -> list[tuple[str, bytes]]:
    lines = [line.partition(": ")[2] for line in text.splitlines() if line and not line.startswith("id: ")]
    return list(zip(lines[::2], map(str.encode, lines[1::2]), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_a_format_draws_what_it_shows_and_no_more(client: httpx.Client, drawings: list[str], method: str) -> None:
    shown = answer(client, method)["maps"]
    pictures = [one[key] for one in shown for key in ("heatmap", "overlay") if one[key]]
    expected = {formats.JSON: len(pictures), formats.EVENTS: len(pictures), formats.NPY: 0, formats.ZIP: len(shown)}
    assert len(drawings) == len(pictures)
    for row in TABLE:
        drawings.clear()
        assert post(client, method, row.media_type).status_code == 200
        assert len(drawings) == expected.get(row, 1), row.media_type
    drawings.clear()
    lean = {"heatmap": False, "overlay": False, "array": "base64"}
    answer(client, method, output=lean)
    assert not drawings


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.media_type)
def test_each_drawing_that_is_shown_is_encoded_once(tiny, row: Format) -> None:
    encoded = []

    def encode(drawing):
        encoded.append(drawing)
        return b"file"

    found = _asked(tiny, replace(row.needs, encode=encode), targets=(1, 2))
    files = [file for one in found.maps for file in (one.heatmap, one.overlay) if file is not None]
    assert len(found.maps) == (row.needs.maps or 2)
    assert files == [b"file"] * len(encoded)
    assert len(encoded) == {"asked": 2, "best": 1, "none": 0}[row.needs.pictures] * len(found.maps)


def _asked(tiny, needs: Needs, **asked) -> Answer:
    ask = Ask(registry()["grad-cam"](), model="tiny", pictures=(PNG,), **asked)
    return tiny.pipeline.work(tiny.pipeline.plan(ask), Run(), needs)


@pytest.mark.parametrize("method", METHODS)
def test_small_pictures_show_what_the_png_shows(client: httpx.Client, method: str) -> None:
    expected = np.asarray(Image.open(io.BytesIO(post(client, method, "image/png").content)).convert("RGB"), int)
    for row in ONE:
        response = post(client, method, row.media_type)
        assert response.headers["content-type"] == row.media_type
        found = Image.open(io.BytesIO(response.content))
        assert Image.MIME[found.format] == row.media_type
        assert np.abs(np.asarray(found.convert("RGB")) - expected).mean() < 20  # of 256; some are mostly noise


@pytest.mark.parametrize("method", METHODS)
def test_zip_holds_all_maps(client: httpx.Client, method: str) -> None:
    targets = {"targets": [4, "APPLE"]} if method in TARGETED else {}
    body = answer(client, method, **targets)
    archive = zipfile.ZipFile(io.BytesIO(post(client, method, "application/zip", **targets).content))
    assert archive.testzip() is None
    names = archive.namelist()
    assert names[0] == "manifest.json"
    assert len(set(names)) == len(names) == 1 + 2 * len(body["maps"])
    manifest = json.loads(archive.read("manifest.json"))
    wire.ExplainResponse.model_validate(manifest)
    bare = [one | {"heatmap": None, "overlay": None, "array": None} for one in body["maps"]]
    assert lasting(manifest) == lasting(body | {"maps": bare})
    for i, one in enumerate(body["maps"]):
        npy, png = names[1 + 2 * i], names[2 + 2 * i]
        assert (npy[-4:], png[-4:], npy[:-4]) == (".npy", ".png", png[:-4])
        assert npy.startswith(f"{i + 1:0{len(str(len(body['maps'])))}}-")
        assert set(npy) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
        values = np.load(io.BytesIO(archive.read(npy)), allow_pickle=False)
        np.testing.assert_allclose(values, np.asarray(one["array"]["data"], np.float32), rtol=1e-4, atol=1e-5)
        shown = picture(one["overlay"] or one["heatmap"])
        assert Image.open(io.BytesIO(archive.read(png))).tobytes() == shown.tobytes()


def test_names_in_a_zip_are_safe_and_unique(tiny) -> None:
    found = _asked(tiny, formats.ZIP.needs, targets=(1,))
    nasty = ["../../etc/passwd", "a/b\\c", "con", "", "\x00\n", "Käfer 甲虫", "x" * 500, "x" * 500, "a.b", "-"]
    maps = [replace(found.maps[0], map=replace(found.maps[0].map, name=name), target=None) for name in nasty]
    archive = zipfile.ZipFile(io.BytesIO(formats.ZIP.encode(replace(found, maps=tuple(maps)))))
    names = [name.removesuffix(".npy") for name in archive.namelist()[1::2]]
    assert len({name.casefold() for name in names}) == len(nasty)
    assert names == sorted(names)
    assert all(name.replace("-", "").replace("_", "").isalnum() and len(name) < 100 for name in names)
    assert all(name.isascii() and name[0].isdigit() for name in names)


def test_equal_answers_are_equal_files(tiny) -> None:
    for row in TABLE:
        found = _asked(tiny, row.needs)
        assert row.encode(found) == row.encode(found)


def test_the_heat_map_alone_where_the_overlay_is_not_wanted(client: httpx.Client) -> None:
    body = answer(client, "grad-cam")["maps"][0]
    alone = post(client, "grad-cam", "image/png", output={"overlay": False})
    assert base64.b64encode(alone.content).decode() == body["heatmap"]
    neither = post(client, "grad-cam", "image/png", output={"overlay": False, "heatmap": False})
    assert base64.b64encode(neither.content).decode() == body["overlay"]


def test_events_end_with_the_json(client: httpx.Client) -> None:
    events = _events(post(client, "cam", "text/event-stream").text)
    assert events[-1][0] == "result"
    assert lasting(json.loads(events[-1][1])) == lasting(answer(client, "cam"))


def test_a_drawing_that_a_format_cannot_hold_is_refused(client: httpx.Client) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20_000, 200), "red").save(buffer, "PNG")
    request = {"request": json.dumps({"output": {"size": "original"}})}
    for row in ONE:
        response = client.post(
            "/explain/cam", files={"image": buffer.getvalue()}, data=request, headers={"accept": row.media_type}
        )
        if row is formats.WEBP:
            assert response.status_code == 422
            assert "20,000 x 200; ask for image/png" in response.json()["detail"]
        else:
            assert Image.open(io.BytesIO(response.content)).size == (20_000, 200)


# Which row is meant


@pytest.mark.parametrize(
    ("accept", "row"),
    [
        *((row.media_type, row) for row in TABLE),
        *((row.media_type.upper() + "; q=0.5, x/y", row) for row in TABLE),
        ("", formats.JSON),
        ("image/avif, image/tiff", formats.JSON),
        ("application/*", formats.JSON),
        ("image/webp;q=0.4, image/*;q=0.5", formats.PNG),
        ("image/webp, image/png", formats.WEBP),
        ("image/webp;q=0, */*", formats.JSON),
        (CHROME, formats.JSON),
        (FIREFOX, formats.PNG),  # as before there was WebP
        ("text/html, application/zip, image/jpeg", formats.JSON),
        ("image/webp, text/html;q=0.1", formats.JSON),
        ("text/html, application/x-npy", formats.NPY),
    ],
)
def test_accepted(accept: str, row: Format) -> None:
    assert formats.accepted(accept) is row


def test_a_browser_is_answered_in_json(client: httpx.Client) -> None:
    assert post(client, "cam", CHROME).headers["content-type"] == "application/json"


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.media_type)
def test_files_by_their_extension(row: Format) -> None:
    for extension in row.extensions:
        assert formats.of_file(f"some/where.d/out{extension}") is row
        assert formats.of_file(f"OUT{extension.upper()}") is row


def test_an_unknown_extension_names_all_that_are_known() -> None:
    known = [extension for row in TABLE for extension in row.extensions]
    assert len(set(known)) == len(known)
    for path in ("out", "out.tiff", ".png", "out.png.gz"):
        with pytest.raises(InvalidParameter) as caught:
            formats.of_file(path)
        assert all(extension in caught.value.detail for extension in known)


# Wire forms


@pytest.mark.parametrize("values", [RAMP, RAMP.T, RAMP[::2], RAMP.reshape(1, 2, 8), RAMP[:0], RAMP.astype(">f4")])
def test_arrays_round_trip(values: npt.NDArray[np.float32]) -> None:
    packed, plain = formats.array(values, "base64"), formats.array(values, "json")
    assert packed["shape"] == plain["shape"] == list(values.shape)
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(packed["data"]), "<f4").reshape(values.shape), values)
    read = orjson.loads(formats.dumps(plain))
    np.testing.assert_array_equal(np.array(read["data"], np.float32).reshape(values.shape), values)


def test_large_arrays_are_serialised_in_parts_and_the_same() -> None:
    values = np.random.default_rng(0).normal(size=(3, 200, 200)).astype(np.float32)
    for one in (values, values[0], values[0].reshape(4, 10_000)):
        assert (one.size > formats._AT_ONCE) == (one.ndim == 3)
        read = orjson.loads(formats.dumps(formats.array(one, "json")))["data"]
        assert np.array_equal(np.array(read, np.float32), one)
    whole = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    assert orjson.loads(formats.dumps(formats.array(values, "json")))["data"] == orjson.loads(whole)

"""`POST /compare` as it stands on the wire."""

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image

from service.api.comparing.formats import TABLE
from service.api.comparing.route import Comparison
from service.api.formats import written
from service.client import wire
from service.comparison.asking import Compare
from service.comparison.comparing import Comparing
from service.comparison.comparing import Comparison as Compared
from service.engine.scheduler.run import Run
from service.errors import InvalidParameter
from tests.api.test_contract import BASE64, PNG

FIELDS = {"image": BASE64, "methods": ["cam", "ram", "saliency"], "metrics": ["curves", "sparsity"]}


def _post(client: httpx.Client, accept: str = "*/*", **more: object) -> httpx.Response:
    return client.post("/compare", json=FIELDS | more, headers={"accept": accept}, timeout=60)


def test_an_answer_is_what_its_type_reads(client: httpx.Client) -> None:
    response = _post(client)
    assert response.status_code == 200, response.text
    raw = response.json()
    read = wire.CompareResponse.model_validate(raw)
    assert read.model_dump(mode="json", exclude_unset=True) == raw
    assert [one.method for one in read.methods] == FIELDS["methods"]
    assert read.methods[1].problem is not None
    assert read.methods[1].problem.status == 422
    assert read.scope == "on this picture"
    assert read.usage.forwards > 0 or read.usage.cache != "none"
    assert {one.sanity.verdict for one in read.methods} == {"not yet tested"}


def test_multipart_says_the_same(client: httpx.Client) -> None:
    request = {key: value for key, value in FIELDS.items() if key != "image"}
    parts = client.post("/compare", files={"image": PNG, "request": (None, json.dumps(request))}, timeout=60).json()
    assert [one["faithfulness"] for m in parts["methods"] for one in m["maps"]] == [
        one["faithfulness"] for m in _post(client).json()["methods"] for one in m["maps"]
    ]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.media_type)
def test_every_format_is_what_it_says(client: httpx.Client, row) -> None:  # type: ignore[no-untyped-def]
    response = _post(client, row.media_type)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(row.media_type)
    if row.media_type == "image/png":
        assert Image.open(io.BytesIO(response.content)).width > 400
    elif row.media_type == "application/zip":
        archive = zipfile.ZipFile(io.BytesIO(response.content))
        manifest = wire.CompareResponse.model_validate_json(archive.read("manifest.json"))
        assert manifest.methods[0].maps[0].array is None
        assert archive.namelist()[:2] == ["manifest.json", "sheet.png"]
        assert np.load(io.BytesIO(archive.read("01-cam-01.npy"))).ndim == 2
    elif row.streams:
        assert "event: result" in response.text


@pytest.mark.parametrize(
    ("fields", "pointer"), [({"methods": "cam"}, "/methods"), ({"targets": [77]}, "/targets/0")], ids=str
)
def test_mistakes_are_named(client: httpx.Client, fields: dict[str, object], pointer: str) -> None:
    response = _post(client, **fields)
    assert response.status_code == 422
    assert [one["pointer"] for one in response.json()["errors"]] == [pointer]


def test_what_is_written_has_room_for_all_methods_together(tiny, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    asked = Compare.of({"methods": ["grad-cam", "saliency", "ram"], "model": "tiny", "targets": [1]}, PNG)
    held: list[int] = []

    @contextmanager
    def place(size: int, *_: object) -> Iterator[None]:
        held.append(size)
        yield
        held.pop()

    def encode(found: Compared) -> bytes:
        answers = [one.answer for one in found.entries if one.answer is not None]
        assert len(answers) == 2
        assert held == [sum(written(answer, TABLE[0].needs) for answer in answers)]
        return b"written"

    work = Comparison.of(tiny, asked, Run(), replace(TABLE[0], encode=encode))
    found = Comparing(tiny.pipeline, work.planned, work.run).work(TABLE[0].needs)
    monkeypatch.setattr(Comparing, "work", lambda *_: found)
    monkeypatch.setattr(tiny.pipeline.codec.room, "large", place)
    assert work._encoded() == b"written"


METHODS = {
    "names": ["grad-cm", "salienc", "occlusio"],
    "parameters": [{"method": "occlusion", "params": {"windo": 3}}] * 3,
    "layers": [{"method": "grad-cam", "params": {"layer": "conv3"}}] * 3,
    "counted layers": [{"method": "score-cam", "params": {"layer": "conv3"}}] * 3,
    "both": ["grad-cm", {"method": "occlusion", "params": {"windo": 3}}, {"method": "cam", "params": {"layer": "x"}}],
}


@pytest.mark.parametrize("methods", METHODS.values(), ids=METHODS)
def test_a_word_is_suggested_once_a_request(client: httpx.Client, methods: list[object]) -> None:
    """Each takes milliseconds, and there may be 32 methods with mistakes."""
    answer = _post(client, methods=[*methods, "saliency"]).json()
    *wrong, right = answer["methods"]
    assert right["problem"] is None
    assert [one["problem"]["status"] // 100 for one in wrong] == [4, 4, 4]
    assert ["did you mean" in one["problem"]["detail"] for one in wrong] == [True, False, False]


def test_methods_are_checked_beside_the_event_loop(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def of(fields: dict[str, object], picture: bytes | None) -> Compare:
        seen.append(threading.current_thread().name)
        raise InvalidParameter.at("/methods", "seen")

    monkeypatch.setattr(Compare, "of", of)
    assert _post(client).status_code == 422
    assert [name.rpartition("_")[0] for name in seen] == ["heatlens-body"]

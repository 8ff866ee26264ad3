"""Answers made in this process: files of every format from one explanation."""

import pytest

from service.api import formats
from service.ask import Ask
from service.bulk.listing import Listed
from service.bulk.local import Local
from service.errors import NotApplicable
from tests.api.test_contract import PNG


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    return Listed(path, "a.png")


def local(tiny, ask, *names):
    rows = {ending: row for row in formats.TABLE for ending in row.extensions[:1] if ending[1:] in names}
    return Local(tiny.pipeline, ask, rows, 2)


def test_each_format_has_its_file_and_the_network_is_asked_once(tiny, picture, monkeypatch):
    asked = []
    explain = tiny.pipeline.explain
    monkeypatch.setattr(tiny.pipeline, "explain", lambda *given: (asked.append(1), explain(*given))[1])
    worker = local(tiny, Ask.explain("cam", {}), "png", "npy", "zip", "json", "jpg", "webp")
    done = worker.start(picture).result()
    worker.close()
    assert done.files.keys() == {".png", ".npy", ".zip", ".json", ".jpg", ".webp"}
    assert done.files[".png"].startswith(b"\x89PNG")
    assert done.files[".zip"].startswith(b"PK")
    assert done.line.keys() == {"sha256", "predictions", "image", "usage"}
    assert len(asked) == 1


def test_a_question_that_no_picture_has_is_refused_at_once(tiny):
    with pytest.raises(NotApplicable):
        local(tiny, Ask.explain("ram", {}), "png")


def test_a_picture_that_is_none_is_its_own_fault(tiny, picture):
    picture.path.write_bytes(b"no picture")
    worker = local(tiny, Ask.explain("cam", {}), "png")
    done = worker.start(picture).result()
    worker.close()
    assert done.line["problem"]["status"] == 415
    assert done.problem == done.line["problem"]["detail"]
    assert done.files == {}

"""What becomes of a picture, whoever answers: of one that cannot be read, of a refusal, of a defect."""

import hashlib
import os
from pathlib import Path

import pytest

from service.api import problems
from service.bulk.listing import Listed
from service.bulk.loop import Done, Stop
from service.bulk.worker import Worker, failed, line


class Plain(Worker):
    """Answers with what it is told, by a picture's bytes."""

    errors = (KeyError,)

    def __init__(self, answers):
        super().__init__(2)
        self.answers = answers

    def answered(self, data, sha256):
        found = self.answers[data]
        if isinstance(found, Exception):
            raise found
        return Done({"sha256": sha256}, {".png": found})

    def refused(self, error, sha256):
        return Done(None, problem=f"refused {error}")


@pytest.fixture
def worked(tmp_path):
    def work(data, answers, path=None):
        if path is None:
            path = tmp_path / "a.png"
            path.write_bytes(data)
        worker = Plain(answers)
        try:
            return worker.start(Listed(path, path.name)).result(60)
        finally:
            worker.close()

    return work


def test_an_answer_is_of_the_files_bytes(worked):
    done = worked(b"x", {b"x": b"map"})
    assert done == Done({"sha256": hashlib.sha256(b"x").hexdigest()}, {".png": b"map"})


def test_a_refusal_a_defect_and_what_ends_the_run(worked, caplog):
    assert worked(b"x", {b"x": KeyError(1)}) == Done(None, problem="refused 1")
    assert worked(b"x", {b"x": ValueError("oh")}) == Done(None, problem="a defect of the service: ValueError: oh")
    assert "a.png" in caplog.text
    with pytest.raises(Stop, match="all"):
        worked(b"x", {b"x": Stop("all")})


def test_what_cannot_be_read_is_not_asked_about(worked, tmp_path):
    assert worked(b"", {}, tmp_path / "gone.png") == Done(None, problem="No such file or directory")
    assert worked(b"", {}, tmp_path) == Done(None, problem="Is a directory")
    os.mkfifo(tmp_path / "pipe.png")  # nobody will ever write to it
    assert worked(b"", {}, tmp_path / "pipe.png") == Done(None, problem="it is no regular file")
    assert Plain({}).start(Listed(Path("a"), "a", "Permission denied")).result(60).problem == "Permission denied"


@pytest.mark.parametrize("status", [400, 413, 415, 422, 429, 500, 503, 504, None])
def test_what_is_the_pictures_own_fault_is_final(status):
    problem = {"type": "t", "title": "T", "status": status, "detail": "why"}
    done = failed(problem, "abc")
    assert done.problem == "why"
    assert done.line == ({"sha256": "abc", "problem": problem} if status in problems.OWN else None)


def test_a_line_holds_no_maps():
    answer = {"predictions": [1], "image": None, "usage": {}, "maps": [2], "id": "x"}
    assert line(answer, "abc") == {"sha256": "abc", "predictions": [1], "image": None, "usage": {}}

"""A run that is cut off at any moment is gone on with, and nothing is torn, lost or done twice."""

import errno
import itertools
import json
import os
from pathlib import Path

import pytest

from service.bulk.manifest import NAME, Manifest
from service.errors import InvalidParameter

QUESTION = {"method": "cam", "params": {"layer": None}, "write": ["npy", "png"]}
PICTURES = [f"a/{i}.jpg" for i in range(12)]


def lines(folder):
    return [json.loads(line) for line in (folder / NAME).read_bytes().splitlines()]


def work(folder):
    """Do all that is not done."""
    with Manifest(folder, QUESTION) as manifest:
        for name in PICTURES:
            if name not in manifest.done:
                manifest.add(name, {"sha256": "x"}, {".png": b"picture" * 100, ".npy": b"values" * 100})


class Killed(BaseException):
    """The process ends here."""


class Torn:
    """A file whose writing is a step."""

    def __init__(self, file, stepping):
        self.file = file
        self.write = stepping(file.write, lambda data: file.write(data[: len(data) // 2]))

    def __getattr__(self, name):
        return getattr(self.file, name)


def die(monkeypatch, step, error=Killed):
    """Let the n-th step that changes a file be the last one, done by half or not at all."""
    left = itertools.count(step, -1)

    def stepping(real, half=lambda *_: None):
        def take(*given):
            if next(left) == 0:
                half(*given)
                raise error
            return real(*given)

        return take

    write, taking = Path.write_bytes, Manifest._take_up

    def take_up(manifest, **given):
        manifest._file = Torn(manifest._file, stepping)
        taking(manifest, **given)

    monkeypatch.setattr(Path, "write_bytes", stepping(write, lambda path, data: write(path, data[: len(data) // 2])))
    monkeypatch.setattr(os, "replace", stepping(os.replace))
    monkeypatch.setattr(Manifest, "_take_up", take_up)


@pytest.mark.parametrize("step", range(0, 1 + 5 * len(PICTURES), 3))
def test_whatever_it_was_about_when_it_was_killed(tmp_path, monkeypatch, step):
    with monkeypatch.context() as patched:
        die(patched, step)
        with pytest.raises(Killed):
            work(tmp_path)
    work(tmp_path)
    first, *found = lines(tmp_path)
    assert first["question"] == QUESTION
    assert sorted(line["path"] for line in found) == sorted(PICTURES)
    files = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    del files[NAME]
    assert files.keys() == {f"{name}{ending}" for name in PICTURES for ending in (".png", ".npy")}
    assert set(files.values()) == {b"picture" * 100, b"values" * 100}


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_cut(tmp_path, cut):
    work(tmp_path)
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[:-cut])
    with Manifest(tmp_path, QUESTION) as manifest:
        assert manifest.done == set(PICTURES[:-1])
    assert (tmp_path / NAME).read_bytes() == whole[: whole.rstrip(b"\n").rfind(b"\n") + 1]


def test_another_question_is_refused_by_what_is_different(tmp_path):
    work(tmp_path)
    with pytest.raises(InvalidParameter, match=r'method: "cam" there, "lime" here\); .*--force'):
        Manifest(tmp_path, QUESTION | {"method": "lime"})
    with Manifest(tmp_path, QUESTION | {"method": "lime"}, force=True) as manifest:
        assert manifest.done == set()
    assert len(lines(tmp_path)) == 1


@pytest.mark.parametrize("text", ["hello\n", "{}\n", "[1]\n", '{"question": {}}\n'])
def test_what_is_no_manifest_is_not_written_to(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    with pytest.raises(InvalidParameter, match="line 1, is no line of a manifest"):
        Manifest(tmp_path, QUESTION)
    assert (tmp_path / NAME).read_text() == text


def test_a_damaged_line_is_named(tmp_path):
    work(tmp_path)
    text = (tmp_path / NAME).read_bytes().splitlines(keepends=True)
    (tmp_path / NAME).write_bytes(b"".join([*text[:3], b"\x00\x00\n", *text[4:]]))
    with pytest.raises(InvalidParameter, match="line 4, is no line"):
        Manifest(tmp_path, QUESTION)


def test_failures_are_kept(tmp_path):
    problem = {"status": 415, "detail": "no picture"}
    with Manifest(tmp_path, QUESTION) as manifest:
        manifest.add("a.jpg", {"problem": problem}, {})
        assert manifest.failed == {"a.jpg": "no picture"}
    with Manifest(tmp_path, QUESTION) as manifest:
        assert (manifest.done, manifest.failed) == ({"a.jpg"}, {"a.jpg": "no picture"})


def test_one_run_at_a_time(tmp_path):
    pytest.importorskip("fcntl")
    with Manifest(tmp_path, QUESTION), pytest.raises(InvalidParameter, match="another run is writing"):
        Manifest(tmp_path, QUESTION)
    with Manifest(tmp_path, QUESTION):
        pass


@pytest.mark.parametrize("step", range(0, 5 * len(PICTURES), 7))
def test_a_disk_that_fills_up(tmp_path, monkeypatch, step):
    """Whatever was being written is taken back, or cut when there is room again."""
    with monkeypatch.context() as patched:
        die(patched, step, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(OSError, match="No space left"):
            work(tmp_path)
        assert not list(tmp_path.rglob("*.part"))
    work(tmp_path)
    _, *found = lines(tmp_path)
    assert sorted(line["path"] for line in found) == sorted(PICTURES)
    assert {path.stat().st_size for path in tmp_path.rglob("*.*g")} == {700}


@pytest.mark.parametrize("name", ["uml\u00e4ut.jpg", "new\nline\r.jpg", os.fsdecode(b"bad\xff.jpg"), "\u2028.jpg"])
def test_pictures_may_be_called_anything(tmp_path, name):
    with Manifest(tmp_path, QUESTION) as manifest:
        manifest.add(name, {"sha256": "x"}, {".png": b"x"})
    with Manifest(tmp_path, QUESTION) as manifest:
        assert manifest.done == {name}
    assert lines(tmp_path)[1]["path"] == name
    assert (tmp_path / f"{name}.png").read_bytes() == b"x"


@pytest.mark.parametrize("text", [b"somebody's", b'{"image": "a.jpg"}\n', b"\n"])
def test_somebody_elses_file_is_not_begun_anew(tmp_path, text):
    (tmp_path / NAME).write_bytes(text)
    for force in (False, True):
        with pytest.raises(InvalidParameter, match="is no line of a manifest"):
            Manifest(tmp_path, QUESTION, force=force)
    assert (tmp_path / NAME).read_bytes() == text


def test_a_file_system_that_locks_nothing_is_told_of(tmp_path, monkeypatch, caplog):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    work(tmp_path)
    assert "cannot be locked (No locks available)" in caplog.text

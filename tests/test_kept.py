"""What lies on disk is what was written, or is set aside: whatever it is, nothing fails of it."""

import errno
import os
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from service import kept

FORM = TypeAdapter(dict[str, int | float | str | list[float]])


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.json"
    kept.write(file, {"a": [1, 2.5]})
    assert kept.read(file, FORM) == {"a": [1, 2.5]}
    assert list(file.parent.iterdir()) == [file]


NO_NUMBERS = ("NaN", "-Infinity", "1e999", "1" * 400, "[1, NaN]")  # that JSON, or an answer's, can tell


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "1", "{", "[" * 100_000, '{"a": ' * 50_000, "\xff", '{"a": null}', '{"a": {}}']
    + [f'{{"a": {number}}}' for number in NO_NUMBERS],
)
def test_what_is_something_else_is_set_aside(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "a.json"
    file.write_text(text, "latin-1")
    assert kept.read(file, FORM) is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.damaged"]
    assert "is found anew" in caplog.text


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(2**23)
    for name in ("pipe", "large", "nothing", "."):
        assert kept.read(tmp_path / name, FORM) is None
    assert large.exists()


def test_where_nothing_can_be_written_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept.write(tmp_path / "file" / "a.json", {})
    assert (tmp_path / "file").read_text() == ""


def test_where_there_is_no_room_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Path.write_text

    def full(self: Path, text: str, encoding: str) -> int:
        written(self, text[:3], encoding)
        raise OSError(errno.ENOSPC, "No space left on device")

    kept.write(tmp_path / "a.json", {"a": 1})
    monkeypatch.setattr(Path, "write_text", full)
    kept.write(tmp_path / "a.json", {"a": 2})
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]
    assert kept.read(tmp_path / "a.json", FORM) == {"a": 1}


def test_those_who_write_at_once_write_each_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In containers that share a folder, each is process 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    names, replace = [], Path.replace

    def between(self: Path, target: Path) -> Path:
        names.append(self.name)
        if len(names) < 2:  # another one writes in between
            kept.write(target, {"of": "another"})
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", between)
    kept.write(tmp_path / "a.json", {"of": "one"})
    assert len(set(names)) == 2
    assert kept.read(tmp_path / "a.json", FORM) == {"of": "one"}


def test_what_is_known_makes_a_name() -> None:
    known = {"model": "a", "input": (3, 4), "libraries": {"b": "1.0"}}
    assert kept.digest(known) == "00d5a9f72fafeba0e26578c8fc6f8f15"
    assert kept.digest(known | {"model": "b"}) != kept.digest(known)
    with pytest.raises(TypeError):
        kept.digest({"a": object()})


def test_a_folder_for_what_may_be_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert kept.folder() == Path("/somewhere/heatlens")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert kept.folder() == Path("/home/me/.cache/heatlens")

    def homeless() -> Path:
        raise RuntimeError("could not determine home directory")

    monkeypatch.setattr("service.kept.Path.home", homeless)
    assert kept.folder() is None

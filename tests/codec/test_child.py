"""One process: it is there, answers, and is gone."""

import sys
from pathlib import Path

import pytest

from service.codec.child import Absent, Lost, Process
from tests.codec.pictures import FILES, LIMITS, RGB

SEE = {"job": "see", "transform": RGB.as_json(), "large": False}


def test_a_process_finds_the_same_modules_wherever_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those that lie in the folder that the server happens to be started in."""
    (tmp_path / "service.py").write_text("raise SystemExit('another one')")
    (tmp_path / "json.py").write_text("raise SystemExit('another one')")
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one] + [str(Path(__file__).parents[2])])
    monkeypatch.chdir(tmp_path)
    process = Process(LIMITS)
    try:
        assert process.ask(SEE, [FILES["jpeg"]])["size"] == [120, 80]
        assert not process.gone
    finally:
        process.end()
    assert process.gone
    with pytest.raises(Lost):
        process.ask(SEE, [FILES["jpeg"]])


def test_a_process_knows_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}

    def popen(command: object, **options: object) -> None:
        given.update(options)
        raise OSError

    monkeypatch.setenv("HEATLENS_API_KEYS", "a secret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setattr("service.codec.child.subprocess.Popen", popen)
    with pytest.raises(Absent):
        Process(LIMITS)
    assert given["env"]["LANG"] == "C.UTF-8"
    assert "a secret" not in given["env"].values()


def test_a_process_that_does_not_begin_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.codec.child._command", lambda *_: [sys.executable, "-S", "-c", "raise SystemExit(3)"])
    process = Process(LIMITS)
    with pytest.raises(Absent, match="it does not begin: exit status 3"):
        process.ask(SEE, [FILES["jpeg"]])
    assert process.gone

"""How README's requests by curl are found, and how what they write is told from what they should not."""

import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.client.shell import ROOT, SERVER, commands, pictures, written

TEXT = (ROOT / "README.md").read_text("utf-8")


def test_every_request_is_found_whole() -> None:
    found = commands(TEXT)
    assert len(found) == TEXT.count("\ncurl ")
    assert all(line.count("'") % 2 == 0 and not line.endswith("\\") for line in found)
    with pytest.raises(ValueError, match="no requests"):
        commands("nothing")


def test_the_pictures_that_they_name_are_there(tmp_path: Path) -> None:
    pictures(tmp_path)
    named = {name for line in commands(TEXT) for name in line.replace("=@", " @").split() if name.startswith("@")}
    assert {name[1:] for name in named} <= {path.name for path in tmp_path.iterdir()}


def test_what_is_no_answer_is_told(tmp_path: Path) -> None:
    assert list(written(f"curl {SERVER}/x", tmp_path, b'{"id": 1}')) == ["JSON with id"]
    with pytest.raises(ValueError, match="why"):
        list(written(f"curl {SERVER}/x", tmp_path, json.dumps({"detail": "why", "instance": "/x"}).encode()))
    Image.new("RGB", (3, 2)).save(tmp_path / "why.png")
    with pytest.raises(ValueError, match="one colour"):
        list(written(f"curl {SERVER}/x -o why.png", tmp_path, b""))
    Image.linear_gradient("L").save(tmp_path / "why.png")
    assert list(written(f"curl {SERVER}/x -o why.png", tmp_path, b"")) == ["why.png, PNG of 256 x 256"]
    (tmp_path / "why.zip").write_bytes(b"no archive")
    with pytest.raises(zipfile.BadZipFile):
        list(written(f"curl {SERVER}/x -o why.zip", tmp_path, b""))

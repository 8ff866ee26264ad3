"""Labels as people have them."""

import json
from pathlib import Path

import pytest

from service.errors import CatalogError
from service.models.labels import imagenet_labels, read_labels

EXPECTED = ("cat", "dog", "bird")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("l.txt", b"cat\ndog\nbird\n"),
        ("l.txt", b"\xef\xbb\xbfcat\r\ndog\r\nbird\r\n"),
        ("l.txt", b"cat \n dog\n\nbird\t\n\n"),
        ("l.json", b'["cat", "dog", " bird"]'),
        ("l.json", b'{"0": "cat",\n"1": "dog",\n"2": "bird"}'),
        ("l.json", b'{"2": "bird", "0": "cat", "1": "dog"}'),
        ("l.json", b'{"cat": 0, "bird": 2, "dog": 1}'),
        ("l.json", b'{"0": ["n1", "cat"], "1": ["n2", "dog"], "2": ["n3", "bird"]}'),
        ("l.json", b'{"id2label": {"0": "cat", "1": "dog", "2": "bird"}}'),
        ("l.json", b'\xef\xbb\xbf["cat", "dog", "bird"]'),
        ("l.txt", b'{"0": "cat", "1": "dog", "2": "bird"}'),
        ("l.txt", b"{0: 'cat',\n 1: \"dog\",\n 2: 'bird'}"),  # as Python prints a dictionary
        ("l.txt", b"['cat', 'dog', 'bird']"),
        ("l.txt", b'["cat", "dog", "bird"]'),
        ("l.json", b'{"id2label": {"0": "cat", "1": "dog", "2": "bird"}, "label2id": {"cat": 0}, "model_type": "vit"}'),
        ("l.json", b'{"version": 2, "classes": ["cat", "dog", "bird"]}'),
        ("l.txt", b"2 bird\n1 dog\n0 cat\n"),
        ("l.txt", b"1: cat\n2: dog\n3: bird\n"),
        ("l.csv", b'1,"dog"\n0,"cat"\n2,"bird"\n'),
        ("l.txt", b"# index and name\nbird 2\ncat 0\ndog\t1\n"),
    ],
)
def test_labels(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert read_labels(tmp_path / name) == EXPECTED


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"0": "cat", "2": "dog"}', "its indices are not 0 to 1"),
        (b'{"a": "cat"}', "holds no labels that can be read"),
        (b"[1, 2]", "a label is no string"),
        (b"{", "write a JSON list of strings"),
        (b"3", "holds no labels"),
        (b'["caf\xe9"]', r"cannot be read \(UnicodeDecodeError\); save it as UTF-8"),
    ],
)
def test_json_that_is_no_labels(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "l.json").write_bytes(data)
    with pytest.raises(CatalogError, match=f"labels: .*l.json' .*{says}"):
        read_labels(tmp_path / "l.json")


@pytest.mark.parametrize(("name", "data"), [("l.txt", b"\n \n"), ("l.json", b"[]"), ("l.json", b'{"classes": []}')])
def test_files_without_labels(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CatalogError, match="holds none; write one label a line, or leave `labels` out"):
        read_labels(tmp_path / name)


def test_a_label_may_begin_with_a_bracket(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("[none]\ncat\n")
    assert read_labels(tmp_path / "l.txt") == ("[none]", "cat")


@pytest.mark.parametrize("lines", ["class 0\nclass 1\n", "7 Up\n3 Musketeers\n", "0 a\n0 b\n", "16\n17\n", "0 cat\n"])
def test_a_number_may_be_part_of_a_label(tmp_path: Path, lines: str) -> None:
    (tmp_path / "l.txt").write_text(lines)
    assert read_labels(tmp_path / "l.txt") == tuple(lines.splitlines())


def test_two_classes_may_have_one_name(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("2 crane\n0 crane\n1 cat\n")
    assert read_labels(tmp_path / "l.txt") == ("crane", "cat", "crane")


@pytest.mark.parametrize(("name", "data"), [("l.yaml", "names:\n- cat\n"), ("l.pbtxt", "item {\n}\n")])
def test_files_whose_lines_are_no_labels(tmp_path: Path, name: str, data: str) -> None:
    (tmp_path / name).write_text(data)
    with pytest.raises(CatalogError, match="is no file of labels that is read; write a JSON list of strings"):
        read_labels(tmp_path / name)


def test_a_folder_is_no_file_of_labels(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"cannot be read .*; name a file of labels"):
        read_labels(tmp_path)


def test_imagenet() -> None:
    labels = imagenet_labels()
    assert (len(labels), labels[281]) == (1000, "tabby")
    assert json.dumps(labels)


def test_imagenet_without_the_file_that_they_are_kept_in(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = imagenet_labels()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert imagenet_labels() == listed

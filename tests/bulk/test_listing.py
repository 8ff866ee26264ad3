"""Which pictures a command line means, and that no two of them share a name."""

import os

import pytest

from service.bulk.listing import Listed, listed
from service.errors import InvalidParameter


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.jpg", "a/b/y.PNG", "a/b/notes.txt", "a/.hidden/z.png", "a/.w.png", "c [1].jpg", "d.dat", "e.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(*words, **more):
    return [one.name for one in listed(words, **more)]


def test_folders_patterns_and_files(tree):
    assert names("a") == names("a/") == names("./a") == ["a/x.jpg", "a/b/y.PNG"]
    assert names("*.jpg") == ["c [1].jpg", "e.jpg"]
    assert names("a/**/*.PNG") == ["a/b/y.PNG"]
    assert names("c [1].jpg", "d.dat") == ["c [1].jpg", "d.dat"]  # what is named may end as it likes
    assert names("e.jpg", "*.jpg", "./e.jpg") == ["e.jpg", "c [1].jpg"]  # each once
    assert names("-", "a", lines=["e.jpg\n", "\n", "d.dat"]) == ["e.jpg", "d.dat", "a/x.jpg", "a/b/y.PNG"]
    assert names("gone.jpg") == ["gone.jpg"]  # it fails, and others do not


def test_paths_from_elsewhere_have_their_whole_names(tree, monkeypatch):
    whole = str(tree / "e.jpg")
    assert listed([whole]) == [Listed(tree / "e.jpg", whole.lstrip(os.sep))]
    monkeypatch.chdir(tree / "a")
    assert names("../e.jpg", whole) == [whole.lstrip(os.sep)]


@pytest.mark.parametrize(("words", "said"), [(("*.webp",), "no file is called so"), ((), "no picture")])
def test_words_that_mean_nothing_are_mistakes(tree, words, said):
    with pytest.raises(InvalidParameter, match=said):
        listed(words)
    assert names("a/.hidden") == ["a/.hidden/z.png"]  # who names a hidden folder means it


def test_two_pictures_of_one_name_are_a_mistake(tree):
    inner = tree / str(tree).lstrip(os.sep)
    inner.mkdir(parents=True)
    (inner / "e.jpg").write_bytes(b"another one")
    inside = str((inner / "e.jpg").relative_to(tree))
    with pytest.raises(InvalidParameter, match="would be written to the same file"):
        listed([inside, str(tree / "e.jpg")])

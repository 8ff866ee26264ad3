"""Which pictures a command line means, and that no two of them share a name."""

import os
from pathlib import Path

import pytest

from service.bulk.listing import Answers, Listed, listed
from service.bulk.manifest import NAME
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
    assert names("-", "a", given=b"e.jpg\n\nd.dat") == ["e.jpg", "d.dat", "a/x.jpg", "a/b/y.PNG"]
    assert names("gone.jpg") == ["gone.jpg"]  # it fails, and others do not


def test_paths_from_elsewhere_have_their_whole_names(tree, monkeypatch):
    whole = str(tree / "e.jpg")
    assert listed([whole]) == [Listed(tree / "e.jpg", whole.lstrip(os.sep))]
    monkeypatch.chdir(tree / "a")
    assert names("../e.jpg", whole) == [whole.lstrip(os.sep)]


@pytest.mark.parametrize(
    ("words", "said"),
    [(("*.webp",), "no file is called so"), (("none/**/*",), "no file is called so"), ((), "no picture")],
)
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


@pytest.mark.parametrize(
    "given",
    [b"a b.jpg\n\n  \n c.jpg \nd.jpg", b"a b.jpg\r\n\r\n c.jpg \r\nd.jpg\r\n", b"\xef\xbb\xbfa b.jpg\n c.jpg \nd.jpg"],
    ids=["lines", "of Windows", "marked"],
)
def test_a_list_has_a_file_a_line_as_it_is_called(given):
    assert names("-", given=given) == ["a b.jpg", " c.jpg ", "d.jpg"]


def test_a_list_may_be_ended_by_nul_for_names_with_line_feeds():
    assert names("-", given=b"a\nb.jpg\0c.jpg\0\0") == ["a\nb.jpg", "c.jpg"]


def test_names_may_be_any_bytes(tree):
    called = os.fsdecode(b"a/\xff\n\xc3\xa4 .png")
    (tree / called).touch()
    assert names("a") == ["a/x.jpg", called, "a/b/y.PNG"] == [*names("a/*.jpg", called), "a/b/y.PNG"]
    assert names("-", given=os.fsencode(called) + b"\0") == [called]


@pytest.mark.parametrize(("word", "said"), [("", "is empty"), (" ", "is empty"), ("s3://b/c", "only read with --ray")])
def test_words_that_mean_something_else_than_was_thought(tree, word, said):
    with pytest.raises(InvalidParameter, match=said):
        listed([word])


def test_a_folder_that_cannot_be_read_is_a_failure(tree, monkeypatch):
    scan = os.scandir

    def scandir(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert listed(["a"]) == [Listed(Path("a/x.jpg"), "a/x.jpg"), Listed(Path("a/b"), "a/b", "Permission denied")]
    assert listed(["a/**/*.jpg"]) == [
        Listed(Path("a/x.jpg"), "a/x.jpg"),
        Listed(Path("a/b"), "a/b", "Permission denied"),
    ]


def test_links_are_followed_once(tree):
    (tree / "a" / "b" / "up").symlink_to(tree / "a")
    (tree / "a" / "other").symlink_to(tree / "a" / "b")
    (tree / "a" / "gone.jpg").symlink_to("nowhere")
    found = ["a/gone.jpg", "a/x.jpg", "a/b/y.PNG", "a/other/y.PNG"]
    assert names("a") == found
    assert sorted(names("a/**/*.jpg", "a/**/*.PNG")) == sorted(found)
    assert names("a/b/up/*.jpg") == ["a/b/up/gone.jpg", "a/b/up/x.jpg"]  # who names a link means it


@pytest.mark.parametrize(
    ("folder", "words"), [("a/out", ["a"]), ("a/out", ["a/**/*"]), ("a", ["a"]), (".", ["a"]), (".", ["a/**/*.*"])]
)
def test_answers_of_an_earlier_run_are_no_pictures(tree, folder, words):
    (tree / "a" / "b" / "notes.txt").unlink()
    answers = Answers(Path(folder), [".png", ".npy"])
    before = names(*words, answers=answers)
    assert sorted(before) == ["a/b/y.PNG", "a/x.jpg"]
    for name in (*(f"{one}{ending}" for one in before for ending in answers.endings), NAME):
        (tree / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / folder / name).touch()
    assert names(*words, answers=answers) == before
    if folder == "a/out":
        assert len(names("a/out", answers=Answers(tree / "elsewhere", [".png"]))) == 2  # who names them means them


def test_a_picture_that_an_answer_would_be_written_over(tree):
    (tree / "a" / "x.jpg.png").write_bytes(b"a picture of somebody's")
    with pytest.raises(InvalidParameter, match=r"answer to a/x.jpg would be written over the picture a/x.jpg.png"):
        listed(["a"], answers=Answers(Path("."), [".png"]))
    assert names("a", answers=Answers(Path("."), [".npy"])) == ["a/x.jpg", "a/x.jpg.png", "a/b/y.PNG"]

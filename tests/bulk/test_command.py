"""`heatlens explain METHOD PICTURES... -o DIR/` from its words to its files, here and by a server."""

import io
import json
import os
import socket

import numpy as np
import pytest
from PIL import Image

from service.bulk.command import NAMES
from service.bulk.manifest import NAME
from tests.test_cli import PNG, TINY, run

PARAMS = ("-p", "window=8", "-p", "stride=8", "-t", "apple")


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Pictures of several colours in a folder, one that is none, and one that is not there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for i in range(6):
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8)).save(buffer, "PNG")
        (tmp_path / "in" / ("deep" if i % 2 else ".") / f"{i}.png").write_bytes(buffer.getvalue())
    return tmp_path


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), int)


def manifest(folder):
    first, *lines = [json.loads(line) for line in (folder / NAME).read_bytes().splitlines()]
    return first, {line["path"]: line for line in lines}


def test_a_folder_of_pictures(pictures):
    done = run("explain", "occlusion", "in", "-o", "out/", *TINY, *PARAMS, "--write", "png,npy,json")
    assert done.exit_code == 0, done.output
    first, lines = manifest(pictures / "out")
    assert first["question"]["params"] == {"window": 8, "stride": 8, "fill": "mean", "score": "probability"}
    assert first["question"]["model"].startswith("tiny sha256:")
    assert sorted(lines) == ["in/0.png", "in/2.png", "in/4.png", "in/deep/1.png", "in/deep/3.png", "in/deep/5.png"]
    for name, line in lines.items():
        assert line["files"] == [f"{name}.png", f"{name}.npy", f"{name}.json"]
        answer = json.loads((pictures / "out" / f"{name}.json").read_bytes())
        values = np.load(pictures / "out" / f"{name}.npy")
        np.testing.assert_allclose(values, answer["maps"][0]["array"]["data"], atol=1e-6)
        assert pixels(pictures / "out" / f"{name}.png").shape == (32, 32, 3)
        assert line["predictions"] == answer["predictions"]
        assert line["usage"]["forwards"] == answer["usage"]["forwards"]
    assert "6 pictures: 6 done, 0 failed, 0 there already" in done.stderr
    again = run("explain", "occlusion", "in", "-o", "out", *TINY, *PARAMS, "--write", "json,png,npy")
    assert (again.exit_code, "0 done, 0 failed, 6 there already" in again.stderr) == (0, True)
    other = run("explain", "occlusion", "in", "-o", "out", *TINY, *PARAMS, "--write", "png")
    assert other.exit_code == 1
    assert 'write: ["json", "npy", "png"] there, ["png"] here' in other.stderr


def test_a_server_gives_what_this_process_does(pictures, client):
    words = ("explain", "occlusion", "in", "in/broken.jpg", *PARAMS, "--write", "png,npy,webp")
    (pictures / "in" / "broken.jpg").write_bytes(b"\xff\xd8 and no more")
    here = run(*words, "-o", "here/", *TINY)
    there = run(*words, "-o", "there/", "--server", str(client.base_url), "--server", str(client.base_url))
    assert (here.exit_code, there.exit_code) == (1, 1)
    first, lines = manifest(pictures / "here")
    other, others = manifest(pictures / "there")
    assert first == other  # either may go on where the other one was
    assert lines.keys() == others.keys()
    assert lines["in/broken.jpg"] == others["in/broken.jpg"]
    assert lines["in/broken.jpg"]["problem"]["status"] in (415, 422)
    for name, line in lines.items():
        for file in line["files"]:
            one, two = (pictures / folder / file for folder in ("here", "there"))
            if file.endswith(".npy"):
                np.testing.assert_allclose(np.load(one), np.load(two), atol=1e-5)
            else:
                np.testing.assert_allclose(pixels(one), pixels(two), atol=16)
        if "problem" not in line:
            assert line["sha256"] == others[name]["sha256"]
            assert line["predictions"][0]["label"] == others[name]["predictions"][0]["label"]
    assert "broken.jpg: " in there.stderr
    again = run(*words, "-o", "there/", "--server", str(client.base_url))
    assert again.exit_code == 1  # the manifest holds a failure
    assert "0 done, 1 failed, 6 there already" in again.stderr
    assert "broken.jpg: " in again.stderr


def test_what_is_not_there_fails_alone_and_is_tried_again(pictures):
    words = ("explain", "cam", "in/0.png", "in/gone.png", "-o", "out", *TINY)
    done = run(*words)
    assert done.exit_code == 1
    assert "in/gone.png: No such file" in done.stderr
    assert manifest(pictures / "out")[1].keys() == {"in/0.png"}
    (pictures / "in" / "gone.png").write_bytes(PNG)
    assert run(*words).exit_code == 0
    assert manifest(pictures / "out")[1].keys() == {"in/0.png", "in/gone.png"}


def test_a_list_of_files_is_read_from_standard_input(pictures):
    done = run("explain", "cam", "-", "in/4.png", "-o", "out/", *TINY, input="in/0.png\nin/2.png\n")
    assert done.exit_code == 0
    assert manifest(pictures / "out")[1].keys() == {"in/0.png", "in/2.png", "in/4.png"}


def test_files_may_be_called_anything(pictures):
    called = [" a b .png", "new\nline.png", os.fsdecode(b"bad\xff.png"), "\u00e4\u2028.png", "x\x1b[31m.png"]
    for name in called:
        (pictures / "in" / name).write_bytes(PNG)
    (pictures / "in" / f"{'l' * 250}.png").write_bytes(PNG)  # to which nothing can be added
    words = ("explain", "cam", "in", "-o", "out/", *TINY)
    done = run(*words)
    assert done.exit_code == 1
    assert "its answer cannot be written: File name too long" in done.stderr
    assert {f"in/{name}" for name in called} <= manifest(pictures / "out")[1].keys()
    assert all((pictures / "out" / "in" / f"{name}.png").is_file() for name in called)
    assert "12 pictures: 0 done, 1 failed, 11 there already" in run(*words).stderr


def test_a_server_that_is_not_there_is_done_without(pictures, client):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        gone = f"http://127.0.0.1:{free.getsockname()[1]}"
        words = ("explain", "cam", "in", "-o", "out/")
        done = run(*words, "--server", gone, "--server", str(client.base_url))
        assert (done.exit_code, len(manifest(pictures / "out")[1])) == (0, 6), done.stderr
        alone = run("explain", "cam", "in", "-o", "other/", "--server", gone, "--server", gone)
    assert (alone.exit_code, "is the server running there?" in alone.stderr) == (1, True)


@pytest.mark.parametrize("text", [b"", b"\n", b"two words", b"\xff\xfe"])
def test_a_file_that_holds_no_key_is_a_mistake(pictures, text):
    (pictures / "key").write_bytes(text)
    words = ("--server", "http://127.0.0.1:1", "--api-key-file", "key")
    done = run("explain", "cam", "in", "-o", "out/", *words)
    assert (done.exit_code, "it has to hold one key" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("cam", "in", "-o", "out.png", "in/0.png"), 2, "name a folder, as out.png/"),
        (("cam", "in/0.png", "-o", "x.png", "--server", "http://127.0.0.1:1"), 2, "name a folder"),
        (("cam", "in", "-o", "out/", "--write", "png,gif"), 2, "['gif'] is nothing to write; there are json, png"),
        (("cam", "in", "-o", "out/", "--write", ""), 2, "is nothing to write"),
        (("filters", "in", "-o", "out/"), 2, "filters needs no picture"),
        (("cm", "in", "-o", "out/"), 1, "did you mean"),
        (("cam", "", "-o", "out/"), 1, "is empty"),
        (("cam", "in", "s3://bucket/in/", "-o", "out/"), 1, "only read with --ray"),
        (("ram", "in", "-o", "out/", "--server", "SERVER"), 1, "ram"),
        (("cam", "in", "-o", "out/", "--server", "nowhere"), 1, "is no address"),
        (("cam", "none*.png", "-o", "out/"), 1, "no file is called so"),
        (("cam", "in", "-o", "out/", "-p", "windw=3"), 1, "unknown field"),
        (("ram", "in", "-o", "out/"), 1, "ram"),
        (("cam", "in", "-o", "out/", "-t", "none of them"), 1, "none of them"),
    ],
)
def test_a_mistake_is_named_before_any_picture_is_looked_at(pictures, client, words, code, said):
    words = [str(client.base_url) if word == "SERVER" else word for word in words]
    done = run("explain", *words, *(TINY if "--server" not in words else ()))
    assert done.exit_code == code, done.output
    assert said in done.stderr
    assert not (pictures / "out" / NAME).exists()


def test_what_may_be_written_is_what_there_is():
    assert {"png", "npy", "json", "webp", "jpg", "zip"} == set(NAMES)

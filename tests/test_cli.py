"""The command line answers as HTTP does, and says in a line what is wrong."""

import base64
import gc
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from service import __version__
from service.cli import main
from service.explainers.base import families, registry
from service.settings import Settings
from tests.conftest import CATALOG, encoded, photograph
from tests.parity import few
from tests.tiny import model_of

TINY = ("--catalog", str(CATALOG), "--model", "tiny", "--device", "cpu")
PNG = encoded(photograph("chelsea").resize((61, 40)))
KNOWN = "write to a .json, .png, .npy, .webp, .jpg, .jpeg or .zip file"


@pytest.fixture
def cat(tmp_path: Path) -> str:
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    return str(path)


def run(*words: str, **options: Any) -> Result:
    """Run a command; what it raises by mistake is raised here."""
    return CliRunner().invoke(main, words, catch_exceptions=False, **options)


def output(*words: str, **options: Any) -> str:
    result = run(*words, **options)
    assert result.exit_code == 0, result.output
    return result.stdout


def wrong(code: int, *words: str, **options: Any) -> str:
    """Return the one line that names a mistake."""
    result = run(*words, **options)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert code == 2 or line == result.stderr.strip()
    return line


def lasting(body: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what differs each time."""
    return body | {"id": "", "usage": {key: body["usage"][key] for key in ("dtype", "exact")}}


# explain


def test_explain_answers_as_http(client: httpx.Client, cat: str, tmp_path: Path) -> None:
    params, drawing = {"window": 8, "stride": 4, "fill": "#808080"}, {"colormap": "viridis", "opacity": 0.25}
    asked = {"targets": [2, "apple"], "params": params, "output": drawing}
    parts = {"image": PNG, "request": (None, json.dumps(asked))}
    words = [
        *("explain", "occlusion", cat, *TINY, "-p", "window=8", "--param", "stride=4"),
        *("-p", "fill=#808080", "--colormap", "viridis", "--opacity", "0.25", "-o"),
    ]
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "png", "npy", "PNG")}
    both = ["-t", "2", "-t", "apple"]
    for kind, file in files.items():
        assert output(*words, str(file), *(both if kind == "json" else both[:2])) == ""
    one = parts | {"request": (None, json.dumps(asked | {"targets": [2]}))}
    answers = {
        kind: client.post("/explain/occlusion", files=parts if kind == "json" else one, headers={"accept": accept})
        for kind, accept in (("json", "application/json"), ("png", "image/png"), ("npy", "application/x-npy"))
    }
    assert lasting(json.loads(files["json"].read_bytes())) == lasting(answers["json"].json())
    assert files["png"].read_bytes() == files["PNG"].read_bytes() == answers["png"].content
    assert files["npy"].read_bytes() == answers["npy"].content
    alone = tmp_path / "alone.png"
    output(*words, str(alone), "--heatmap", *both[:2])
    heatmap = answers["json"].json()["maps"][0]["heatmap"]
    assert alone.read_bytes() == base64.b64decode(heatmap)
    assert alone.read_bytes() != files["png"].read_bytes()


def test_every_method_explains(cat: str, tmp_path: Path) -> None:
    for name, cls in registry().items():
        quick = [word for field, value in few(cls).items() for word in ("-p", f"{field}={json.dumps(value)}")]
        model = model_of(name)
        file = tmp_path / f"{name}.json"
        words = [cat] if cls.needs_image else []
        output("explain", name, *words, "-o", str(file), *quick, *TINY[:3], model, "--device", "cpu")
        body = json.loads(file.read_bytes())
        assert (body["method"], body["model"]["name"]) == (name, model)
        assert body["maps"]


def test_original_size_and_standard_input(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    output("explain", "cam", "-", "-o", str(file), "--size", "original", *TINY, input=PNG)
    assert json.loads(file.read_bytes())["image"]["width"] == 61


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("explain", "cam", "CAT", "-o", "out.txt"), 2, KNOWN),
        (("explain", "cam", "CAT", "-o", "out"), 2, KNOWN),
        (("explain", "cam", "CAT"), 2, "Missing option '-o'"),
        (("explain", "cam", "-o", "out.png"), 2, "cam needs a PICTURE"),
        (("explain", "cam", "CAT", "-o", "out.png", "--size", "huge"), 2, "'huge' is not one of"),
        (("explain", "cam", "CAT", "-o", "out.png", "--opacity", "much"), 2, "'much' is not a valid float"),
        (("explain", "occlusion", "CAT", "-o", "out.png", "-p", "window"), 2, "write NAME=VALUE"),
        (("explain", "cam", "CAT", "-o", "out.png", "--device", "tpu"), 2, "--device"),
        (("explain", "grad-kam", "CAT", "-o", "out.png"), 1, "did you mean 'grad-cam'?"),
        (("explain", "cam", "CAT", "-o", "out.png", "--opacity", "2"), 1, "less than or equal to 1"),
        (("explain", "cam", "CAT", "-o", "out.png", "--colormap", "nix"), 1, "some are viridis"),
        (("explain", "cam", "CAT", "-o", "out.png", "-t", "appel"), 1, "did you mean 'apple'?"),
        (("explain", "cam", "CAT", "-o", "out.png", "-t", "-1"), 1, "target -1 is out of range"),
        (("explain", "cam", "CAT", "-o", "out.png", "-t", "--5"), 1, "no label '--5'"),
        (("explain", "cam", "CAT", "-o", "out.png", "-t", "²"), 1, "no label '²'"),
        (("explain", "cam", "CAT", "-o", "out.png", "-t", "9" * 5000), 1, "targets/0"),
        (("explain", "cam", "CAT", "-o", "out.png", "-t", "1", "-t", "2"), 2, "write to a .json or .zip file"),
        (("explain", "cam", "CAT", "-o", "out.png", "-t", '{"class": 1'), 1, "begins as a JSON object and is none"),
        (("explain", "cam", "CAT", "-o", "out.png", "-t", '{"klass": 1}'), 1, "unknown field 'klass'; did you mean"),
        (("explain", "cam", "CAT", "-o", "no/such/out.png"), 1, "no/such/out.png: No such file"),
        (("explain", "occlusion", "CAT", "-o", "out.png", "-p", "windw=3"), 1, "did you mean 'window'?"),
        (("explain", "occlusion", "CAT", "-o", "out.png", "-p", "window=wide"), 1, "valid integer"),
        (("explain", "occlusion", "CAT", "-o", "out.png", "-p", "window=" + "9" * 5000), 1, "/params/window"),
        (("explain", "saliency", "CAT", "-o", "out.png", "-p", "smooth_noise=NaN"), 1, "/params/smooth_noise"),
        (("explain", "ram", "CAT", "-o", "out.png"), 1, "use 'cam'"),
        (("explain", "cam", "nix.png", "-o", "out.png"), 1, "nix.png: No such file"),
        (("explain", "cam", ".", "-o", "out.png"), 1, ".: Is a directory"),
        (("explain", "cam", str(CATALOG), "-o", "out.png"), 1, "send one of PNG, JPEG, WEBP, GIF, BMP"),
        (("predict", "nix.png"), 1, "nix.png: No such file"),
        (("predict", "CAT", "--top-k", "0"), 2, "'--top-k'"),
        (("predict", "CAT", "--model", "tinny"), 1, "there is no model 'tinny'"),
        (("predict", "CAT", "--device", "cuda:99"), 1, "CUDA devices; use cpu or auto"),
    ],
)
def test_mistakes(cat: str, tmp_path: Path, words: tuple[str, ...], code: int, says: str) -> None:
    settings = () if "--model" in words else TINY[:4]
    device = () if "--device" in words else TINY[4:]
    places = [{"CAT": cat, "out.png": str(tmp_path / "out.png")}.get(word, word) for word in words]
    assert says in wrong(code, *places, *settings, *device)
    assert not (tmp_path / "out.png").exists()


def test_a_model_that_fails_to_load(cat: str, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text('[models.bad]\nfactory = "builtins:list"\n')
    result = run("predict", cat, "--catalog", str(catalog), "--device", "cpu")
    assert result.exit_code == 1
    told = "the factory returned a list, not an nn.Module; return the network itself"
    assert result.stderr.splitlines()[-1].endswith(told)
    assert "Traceback" not in result.stderr


NUMBERED = """
[models.m]
factory = "tests.tiny:classifier"
arguments = {outputs = 12}
input_size = 32
labels = "labels.txt"
"""


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("10", 2),  # the label, which is that of another output
        ("11", 3),
        ("Seven", 9),  # a label, whatever its case
        ('{"class": "10", "against": [0]}', 2),
        ('{"class": 10}', 10),
    ],
)
def test_a_target_is_json_or_a_label_or_an_index(cat: str, tmp_path: Path, text: str, index: int) -> None:
    """Folders of classes are often numbers, and in another order."""
    labels = sorted(map(str, range(12)))
    labels[9] = "seven"
    (tmp_path / "labels.txt").write_text("\n".join(labels))
    (tmp_path / "catalog.toml").write_text(NUMBERED)
    file = tmp_path / "out.json"
    output("explain", "cam", cat, "-o", str(file), "-t", text, "--catalog", str(tmp_path / "catalog.toml"))
    target = json.loads(file.read_bytes())["maps"][0]["target"]
    assert (target["index"], target["label"]) == (index, labels[index])


def test_digits_are_an_index_where_no_label_has_that_name(cat: str, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    output("explain", "cam", cat, "-o", str(file), "-t", "3", *TINY)
    assert json.loads(file.read_bytes())["maps"][0]["target"]["index"] == 3


def test_what_a_network_prints_is_no_output(cat: str, tmp_path: Path) -> None:
    """Neither in its factory nor in a forward; in a process of its own, where output is output."""
    (tmp_path / "catalog.toml").write_text("[models.m]\nfactory = 'tests.odd.nets:talks'\ninput_size = 32\n")
    words = [sys.executable, "-m", "service", "predict", cat, "--json", "--catalog", str(tmp_path / "catalog.toml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["predictions"]) == 3
    assert "a picture came by" in done.stderr
    assert "made" in done.stderr


def test_a_network_that_fails_on_a_picture(tmp_path: Path) -> None:
    """Here its author reads the answer: it says what was raised, in one line."""
    (tmp_path / "black.png").write_bytes(encoded(Image.new("RGB", (32, 32))))
    catalog = tmp_path / "catalog.toml"
    text = "[models.m]\nfactory = 'tests.odd.nets:on_black'\ninput_size = 32\nmean = 0.0\nstd = 1.0\n"
    catalog.write_text(text + "arguments = {what = 'raises'}\n")
    line = wrong(1, "predict", str(tmp_path / "black.png"), "--catalog", str(catalog), "--device", "cpu")
    assert "the network of model 'm' fails on this picture" in line
    assert "its forward raises ValueError (ValueError: black; secret=/etc/shadow)" in line


# predict, models, methods


def test_predict(client: httpx.Client, cat: str) -> None:
    expected = client.post("/predict", files={"image": PNG}).json()
    assert lasting(json.loads(output("predict", cat, "--json", *TINY))) == lasting(expected)
    lines = output("predict", "-", "--top-k", "2", *TINY, input=PNG).splitlines()
    best = expected["predictions"][:2]
    assert [line.split() for line in lines] == [
        [f"{p['probability']:.1%}", p["label"], f"({p['index']})"] for p in best
    ]
    value = client.post("/predict", files={"image": PNG, "request": (None, '{"model": "tiny-regression"}')}).json()
    words = output("predict", cat, *TINY[:3], "tiny-regression").split()
    assert words == [f"{value['predictions'][0]['value']:.3f}", "0"]


def test_models(tmp_path: Path) -> None:
    lines = output("models", *TINY).splitlines()
    assert lines[0].startswith("* tiny  classification, 32 x 32, 5 labels  (catalogue: tests.tiny:classifier")
    assert any(line.startswith("  tiny-regression  regression") for line in lines)
    embedded = output("models").splitlines()
    assert [line.split()[:2] for line in embedded[:-1]] == [
        ["*", "efficientnet-lite0"],
        ["lesion-count", "regression,"],
    ]
    assert "resnet50" in output("models", "--torchvision").split()
    assert "cannot be read" in wrong(1, "models", "--catalog", str(tmp_path / "nix.toml"))


def test_tune_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "nothing can be written to" in wrong(1, "tune", *TINY, "--into", str(tmp_path / "file"))


def test_methods() -> None:
    lines = iter(output("methods").splitlines())
    for family, about in families().items():
        assert next(lines) == f"{family}: {about}"
        for name, cls in registry().items():
            if cls.family == family:
                listed, summary = next(lines).split(maxsplit=1)
                assert listed == name
                assert (cls.__doc__ or "").startswith(summary)
                facts = next(lines).strip()
                assert facts.startswith(cls.kind + "; ")
                assert facts.endswith(f"; {cls.cost}; {cls.reference}")
    assert list(lines) == []
    for name, cls in registry().items():
        text = output("methods", name)
        assert text.startswith(name + "\n")
        assert cls.reference in text
        for field, info in cls.model_fields.items():
            assert f"  {field} = {json.dumps(info.default)}\n      {info.description}\n" in text
    assert "did you mean 'grad-cam'" in wrong(1, "methods", "grad-kam")


# Settings


def test_environment(cat: str) -> None:
    env = {"HEATLENS_CATALOG": str(CATALOG), "HEATLENS_MODEL": "tiny-vgg,tiny", "HEATLENS_DEVICE": "cpu"}
    assert output("models", env=env).startswith("* tiny-vgg")
    assert output("models", "--model", "tiny-tokens", env=env).startswith("* tiny-tokens")
    assert json.loads(output("predict", cat, "--json", env=env))["model"]["name"] == "tiny-vgg"
    small = env | {"HEATLENS_MAX_IMAGE_PIXELS": "2439"}
    assert "61 x 40 = 2,440 pixels and at most 2,439" in wrong(1, "predict", cat, env=small)
    assert "HEATLENS_PORT: Input should be a valid integer" in wrong(2, "models", env={"HEATLENS_PORT": "many"})
    for name, value in (("HEAD_TIMEOUT_S", "0"), ("HOST", ""), ("TRUSTED_PROXIES", "10.0.0.1/8")):
        assert f"HEATLENS_{name}: " in wrong(2, "serve", env={f"HEATLENS_{name}": value})


def test_help_names_the_defaults() -> None:
    named = {
        option.name: found[1]
        for option in main.commands["serve"].params
        if (found := re.search(r"Default: ([^ ]+)\.$", getattr(option, "help", None) or ""))
    }
    assert named.keys() >= {"host", "port", "device", "log_level"}
    for name, default in named.items():
        assert default == str(Settings.model_fields[name].default)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--port", "70000"), 2, "--port: Input should be less than or equal to 65535 (got 70000)"),
        (("--port", "many"), 2, "'many' is not a valid integer"),
        (("--log-level", "loud"), 2, "'loud' is not one of"),
        (("--model", "resnet51"), 1, "did you mean 'resnet"),
        (("--device", "cuda:99"), 1, "use cpu or auto"),
    ],
)
def test_serve_refuses_to_start(words: tuple[str, ...], code: int, says: str) -> None:
    assert says in wrong(code, "serve", *words)
    assert gc.isenabled()


def test_real_process() -> None:
    def python(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service", *words], capture_output=True, text=True, timeout=60, env={**os.environ}
        )

    shown = python("--help")
    assert shown.returncode == 0
    assert all(f"  {command} " in shown.stdout for command in ("explain", "methods", "models", "predict", "serve"))
    assert __version__ in python("--version").stdout
    mistaken = python("explian")
    assert mistaken.returncode == 2
    assert "No such command 'explian'" in mistaken.stderr
    assert "Traceback" not in mistaken.stderr


def test_array_is_the_map(cat: str, tmp_path: Path) -> None:
    file = tmp_path / "out.npy"
    output("explain", "cam", cat, "-o", str(file), *TINY)
    values = np.load(io.BytesIO(file.read_bytes()))
    assert values.shape == (16, 16)
    assert torch.from_numpy(values).isfinite().all()


def test_verify_says_of_each_method_whether_it_depends_on_the_model(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("HEATLENS_CACHE_DIR", str(tmp_path))
    told = output("verify", "tiny", *TINY[:2], *TINY[4:], "--method", "cam", "--method", "filters").splitlines()
    assert [line.split()[0] for line in told] == ["cam", "filters"]
    assert re.match(r"cam +(passes|fails|depends) +\d\.\d\d  \d\.\d\d", told[0])
    assert told[1].endswith("it looks at no picture")
    assert wrong(1, "verify", "tiny", *TINY[:2], "--method", "cm").startswith("Error: there is no method 'cm'")

"""How a source is chosen, what it is called, and what is said of one that there is not."""

import importlib
from pathlib import Path

import pytest

from service.errors import CatalogError
from service.models.catalogue import read_catalog, requested
from service.models.sources.base import Wish, find, named, nearest, sources, split, unknown

FOLDER = Path(importlib.import_module("service.models.sources").__file__ or "").parent


def test_each_file_is_a_source() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "base"}
    assert {source.name for source in sources()} == files


def test_each_source_has_its_test() -> None:
    tests = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert {source.name for source in sources()} <= tests


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("efficientnet-lite0", "embedded"),
        ("resnet18", "torchvision"),
        ("torchvision/nothing", "torchvision"),
        ("timm/anything", "timm"),
        ("hf/a/b", "transformers"),
        ("some/net.pt2", "files"),
        ("package.module:callable", "factory"),
        ("module:Class.method", "factory"),
        ("nothing", None),
        ("", None),
    ],
)
def test_exactly_one_source_takes_a_text(tmp_path: Path, text: str, owner: str | None) -> None:
    assert [source.name for source in sources() if source.takes(text, tmp_path)] == [owner][: owner is not None]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("timm/resnet50.a1_in1k", "resnet50-a1_in1k"),
        ("hf/google/vit-base-patch16-224", "vit-base-patch16-224"),
        ("torchvision/resnet18", "resnet18"),
        ("models/my net.v2.pt2", "my-net-v2"),
        ("runs/vit.final/", "vit-final"),
        ("nets:net", "net"),
        ("my.nets:Net.tiny", "Net-tiny"),
        ("C:\\models\\net.pt2", "net"),
    ],
)
def test_names_are_made_of_the_source(source: str, name: str) -> None:
    assert named(source) == name


def test_second_model_of_a_name_gets_its_whole_source(tmp_path: Path) -> None:
    specs, default = requested(("tests.models.nets:small", "tests.tiny:classifier"), None)
    assert ([*specs], default) == (["small", "classifier"], "small")
    (tmp_path / "catalog.toml").write_text("[models.small]\nfactory = 'tests.models.nets:small'\n")
    specs, default = requested(("tests.models.nets:small",), tmp_path / "catalog.toml")
    assert ([*specs], default) == (["tests-models-nets-small", "small"], "tests-models-nets-small")


def test_weights_behind_a_source(tmp_path: Path) -> None:
    (tmp_path / "run=3").mkdir()
    (tmp_path / "run=3" / "net.pt2").touch()
    for text, parts in {
        "resnet18": ("resnet18", ""),
        "resnet18=random": ("resnet18", "random"),
        "resnet18=epoch=3-step=5.ckpt": ("resnet18", "epoch=3-step=5.ckpt"),
        "timm/resnet18.a1_in1k=w.pth": ("timm/resnet18.a1_in1k", "w.pth"),
        "nets:net=default": ("nets:net", "default"),
        "run=3/net.pt2": ("run=3/net.pt2", ""),
        "nothing=random": ("nothing", "random"),
    }.items():
        assert split(text, tmp_path) == parts


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("ResNet50", "did you mean 'resnet50'?"),
        ("resnet-50", "did you mean 'resnet50'?"),
        ("torchvision/resnet51", "did you mean 'resnet"),
        ("EfficientNet-Lite0", "did you mean 'efficientnet-lite0'?"),
        ("vit-b-16", "did you mean 'vit_b_16'?"),
    ],
)
def test_wrong_names_meet_the_nearest(text: str, near: str) -> None:
    with pytest.raises(CatalogError) as raised:
        requested((text,), None)
    assert near in str(raised.value)


def test_wrong_name_says_which_sources_there_are_and_the_nearest_in_each() -> None:
    pytest.importorskip("timm")
    message = unknown("vit_tiny_patch16_224", Path())
    assert "did you mean 'timm/vit_tiny_patch16_224'?" in message
    for source in sources():
        assert source.form in message
    assert "(nearest: 'timm/vit_tiny_patch16_224')" in message


def test_folder_that_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    with pytest.raises(CatalogError, match=r"the folder 'weights' has no config\.json"):
        find("weights", Wish(folder=tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("net.onnx", "a file of ONNX, which is not read; export the network from PyTorch"),
        ("model.H5", "a file of Keras"),
        ("hf:org/name", "did you mean 'hf/org/name'"),
        ("./nets.py:make", "did you mean 'nets:make'"),
        ("./sub/nets:make", "did you mean 'sub.nets:make'"),
        ("nets:make()", "did you mean 'nets:make'"),
        ("hf-hub:timm/resnet50.a1_in1k", "did you mean 'timm/resnet50.a1_in1k'"),
        ("hf_hub:microsoft/resnet-50", "did you mean 'hf/microsoft/resnet-50'"),
    ],
)
def test_what_is_written_as_something_else(text: str, says: str) -> None:
    with pytest.raises(CatalogError, match=says):
        find(text, Wish())


def test_nearest() -> None:
    assert nearest("Resnet_50", ["a/resnet50", "vgg"]) == "a/resnet50"
    assert nearest("zzz", ["resnet50"]) is None


def test_source_key_takes_weights_and_names_them_once(tmp_path: Path) -> None:
    (tmp_path / "catalog.toml").write_text("[models.m]\nsource = 'squeezenet1_1=random'\nweights = 'random'\n")
    with pytest.raises(
        CatalogError, match=r"models\.m\.weights: source already names them \('random'\); leave one out"
    ):
        read_catalog(tmp_path / "catalog.toml")

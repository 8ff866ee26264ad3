"""timm's networks, held against timm's own preprocessing and labels."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.errors import CatalogError
from service.images import prepare, to_input
from service.models.catalogue import read_catalog, requested
from service.models.spec import ModelSpec
from service.tasks import task
from tests.conftest import photograph

timm = pytest.importorskip("timm")
SMALL = "timm/test_resnet.r160_in1k"


def asked(option: str) -> ModelSpec:
    (spec,) = requested((option,), None)[0].values()
    return spec


@pytest.mark.parametrize(
    ("name", "fit"),
    [
        ("resnet50.a1_in1k", "crop"),
        ("vit_tiny_patch16_224", "crop"),
        ("convnext_base.fb_in22k_ft_in1k_384", "squash"),
        ("inception_v3.tf_in1k", "crop"),
        ("test_vit.r160_in1k", "crop"),
    ],
)
@pytest.mark.parametrize("photo", ["chelsea", "astronaut"])
def test_input_is_timms(name: str, fit: str, photo: str) -> None:
    spec = asked(f"timm/{name}=random")
    config = timm.data.resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    expected = timm.data.create_transform(**config)(photograph(photo))[None]
    ours = to_input(prepare(photograph(photo), spec.transform), spec.transform)
    assert spec.transform.fit == fit
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert spec.assumed == ()


def test_border_is_timms() -> None:
    from service.models.preprocessing import preparing
    from service.models.sources.timm import _preprocessing

    config = timm.get_pretrained_cfg("resnet50").to_dict() | {"crop_mode": "border", "crop_pct": 0.9}
    transform = preparing({}, _preprocessing(timm, config, {})).transform
    theirs = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=config))
    ours = to_input(prepare(photograph("chelsea"), transform), transform)
    torch.testing.assert_close(ours, theirs(photograph("chelsea"))[None], rtol=1e-5, atol=0.03)


@pytest.mark.parametrize(
    ("name", "subset"), [("resnet50.a1_in1k", "imagenet-1k"), ("beit_base_patch16_224.in22k_ft_in22k", "imagenet-22k")]
)
def test_labels_are_timms(name: str, subset: str) -> None:
    info = timm.data.ImageNetInfo(subset)
    labels = asked(f"timm/{name}=random").labels
    assert len(labels) == info.num_classes()
    assert labels[281] == info.index_to_description(281)


def test_name_tag_and_source() -> None:
    spec = asked("timm/resnet50.a1_in1k=random")
    assert spec.name == "resnet50-a1_in1k"
    assert spec.source == "timm resnet50.a1_in1k, weights: random"
    assert (spec.task, spec.task_known) == (task("classification"), True)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("timm/ResNet-50=random", "timm has no network 'ResNet-50'; did you mean 'timm/resnet50'?"),
        ("timm/resnet50.a1_in2k=random", "timm has no weights 'a1_in2k' of 'resnet50'; there are: a1_in1k"),
        ("timm/resnet50=nix.pth", "no file 'nix.pth'"),
    ],
)
def test_mistakes(option: str, says: str) -> None:
    with pytest.raises(CatalogError) as raised:
        requested((option,), None)
    assert f"--model {option}: {says}" in str(raised.value)


def test_random_weights_are_seeded_and_alive() -> None:
    first, again = (asked(f"{SMALL}=random").build() for _ in range(2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    pictures = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(3))
    a, b = first(pictures)
    assert float((a - b).abs().max()) > 0.05 * float(a.std())


def test_weights_of_a_file(tmp_path: Path) -> None:
    network = timm.create_model("test_resnet")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "w.pth")
    found = asked(f"{SMALL}={tmp_path / 'w.pth'}").build().state_dict()
    assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())


def test_files_of_others_are_converted_as_timm_does(tmp_path: Path) -> None:
    """A ViT as DINO and others save it has position embeddings of another size: timm's own filter resizes them."""
    network = timm.create_model("test_vit", img_size=320)
    torch.save({"teacher": network.state_dict()}, tmp_path / "w.pth")
    spec = asked(f"timm/test_vit={tmp_path / 'w.pth'}")
    built = spec.build()
    assert any("own conversion" in line for line in spec.said)
    assert built(torch.zeros(1, 3, 160, 160)).shape == (1, 1000)


def test_without_network_or_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    with pytest.raises(CatalogError, match=rf"not in the local cache \(ConnectionError\).*{SMALL}=FILE"):
        asked(SMALL).build()


def test_arguments(tmp_path: Path) -> None:
    (tmp_path / "catalog.toml").write_text(
        "[models.grey]\nsource = 'timm/test_resnet=random'\narguments = {in_chans = 1, num_classes = 4}\n"
        "[models.encoder]\nsource = 'timm/vit_small_patch14_dinov2=random'\n"
    )
    specs, _ = read_catalog(tmp_path / "catalog.toml")
    grey = specs["grey"]
    assert grey.transform.channels == "l"
    assert (grey.labels, grey.task_known) == ((), False)
    assert grey.build()(torch.zeros(1, 1, 160, 160)).shape == (1, 4)
    assert any(line.startswith("mean = ") for line in grey.assumed)
    if specs["encoder"].mistake:  # until the task is there
        assert "'embedding'" in specs["encoder"].mistake
    else:
        assert specs["encoder"].task.name == "embedding"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("img_size = '224'", r"models\.m\.arguments\.img_size: '224' is no size; write a number of pixels, or"),
        ("img_size = [1, 2, 3]", r"models\.m\.arguments\.img_size: "),
        ("in_chans = 6", r"models\.m\.channels: the network takes 6, and pictures have 1, 3 or 4"),
        ("in_chans = 'rgb'", r"models\.m\.channels: the network takes 'rgb'"),
    ],
)
def test_arguments_that_say_no_input_leave_other_models_standing(tmp_path: Path, arguments: str, says: str) -> None:
    (tmp_path / "catalog.toml").write_text(
        f"[models.m]\nsource = 'timm/test_resnet=random'\narguments = {{{arguments}}}\n"
        "[models.other]\nsource = 'timm/test_resnet=random'\n"
    )
    specs, _ = read_catalog(tmp_path / "catalog.toml")
    assert re.search(says, specs["m"].mistake or "")
    assert specs["other"].mistake is None


@pytest.mark.parametrize("weights", ["random", "default"])
def test_misspelt_argument(tmp_path: Path, weights: str) -> None:
    (tmp_path / "catalog.toml").write_text(
        f"[models.m]\nsource = 'timm/test_resnet.r160_in1k={weights}'\narguments = {{num_clases = 4}}\n"
    )
    spec = read_catalog(tmp_path / "catalog.toml")[0]["m"]
    with pytest.raises(CatalogError, match=r"takes no 'num_clases'; did you mean 'num_classes'\?"):
        spec.build()


def test_timm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CatalogError, match=r"timm is not installed: pip install 'heatlens\[timm\]'"):
        requested(("timm/resnet18=random",), None)


def test_one_version_whatever_the_weights_are_called(tmp_path: Path) -> None:
    network = timm.create_model("test_resnet")
    versions = set()
    for name in ("a.pth", "b.pth"):
        torch.save(network.state_dict(), tmp_path / name)
        spec = asked(f"{SMALL}={tmp_path / name}")
        versions.add(spec.identity(spec.build()))
    assert len(versions) == 1
    assert np.all([str(tmp_path).encode() not in version for version in versions])

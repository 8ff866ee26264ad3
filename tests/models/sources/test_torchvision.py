"""torchvision's networks: its own preprocessing, labels and tasks, and files as it publishes them."""

import re
from pathlib import Path

import pytest
import torch
from torchvision import models

from service.errors import CatalogError
from service.images import prepare, to_input
from service.models.catalogue import read_catalog, requested
from service.models.sources.base import Wish, find
from service.models.sources.torchvision import SOURCE
from tests.conftest import photograph


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "regnet_y_400mf", "inception_v3"])
def test_input_is_torchvisions(name: str) -> None:
    spec = requested((f"torchvision/{name}=random",), None)[0][name]
    theirs = models.get_model_weights(name).DEFAULT.transforms()(photograph("chelsea"))[None]
    torch.testing.assert_close(
        to_input(prepare(photograph("chelsea"), spec.transform), spec.transform), theirs, rtol=1e-5, atol=1e-5
    )
    assert spec.assumed == ()


@pytest.mark.parametrize("name", SOURCE.names())
def test_every_network_is_known(name: str) -> None:
    found = find(name, Wish("random"))
    family = next(
        f
        for f in ("segmentation", "detection", "quantization", "")
        if not f or name in models.list_models(module=getattr(models, f))
    )
    assert found.task == {"segmentation": "segmentation", "detection": "detection"}.get(family, "classification")
    assert len(found.labels) > 1
    assert found.preprocessing["input_size"] > 100


@pytest.mark.parametrize(("name", "says"), [("r3d_18", "takes videos"), ("raft_small", "takes two pictures")])
def test_networks_of_other_inputs_are_refused(name: str, says: str) -> None:
    with pytest.raises(CatalogError, match=f"torchvision's '{name}' {says}"):
        find(name, Wish("random"))


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("num_clases = 3", r"arguments: torchvision's resnet18 takes no 'num_clases'; did you mean 'num_classes'\?"),
        ("num_classes = 'ten'", r"torchvision's resnet18 cannot be made with arguments = .*'ten'.*TypeError"),
    ],
)
def test_arguments_that_are_not_taken(tmp_path: Path, argument: str, says: str) -> None:
    text = f"[models.m]\nsource = 'torchvision/resnet18=random'\narguments = {{{argument}}}\n"
    (tmp_path / "catalog.toml").write_text(text)
    spec = read_catalog(tmp_path / "catalog.toml")[0]["m"]
    with pytest.raises(CatalogError, match=says):
        spec.build()


def test_parts_are_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builders of segmenters and detectors fetch a backbone, unless they are told not to."""

    def fetched(*_: object, **__: object) -> None:
        raise AssertionError("downloaded")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetched)
    for name in ("lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large"):
        assert isinstance(find(name, Wish("random")).build([]), torch.nn.Module)


def _with_auxiliary(name: str) -> dict[str, torch.Tensor]:
    return models.get_model(name, weights=None, init_weights=False, aux_logits=True).state_dict()


def _with_dots() -> dict[str, torch.Tensor]:
    """DenseNet's published files have names with dots, and no counters."""
    state = models.densenet121(weights=None).state_dict()
    pattern = r"(denselayer\d+\.)(norm|conv)([12])\."
    return {re.sub(pattern, r"\1\2.\3.", key): value for key, value in state.items() if "num_batches" not in key}


PUBLISHED = {
    "googlenet": lambda: _with_auxiliary("googlenet"),
    "inception_v3": lambda: _with_auxiliary("inception_v3"),
    "densenet121": _with_dots,
    "lraspp_mobilenet_v3_large": lambda: models.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None
    ).state_dict(),
    "fcn_resnet50": lambda: models.get_model(
        "fcn_resnet50", weights=None, weights_backbone=None, aux_loss=True
    ).state_dict(),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_as_published(tmp_path: Path, name: str) -> None:
    state = PUBLISHED[name]()
    torch.save(state, tmp_path / "w.pth")
    found = find(name, Wish(str(tmp_path / "w.pth")))
    network = found.build([])
    assert isinstance(network, torch.nn.Module)
    dotless = {key.replace(".", ""): value for key, value in state.items()}
    built = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
    assert all(torch.equal(value, dotless[key.replace(".", "")]) for key, value in built.items())
    if name in ("googlenet", "inception_v3"):
        assert network.transform_input is True
        assert "transform_input" in found.said[0]


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_files_without_auxiliary_classifiers_and_with_own_arguments(tmp_path: Path, name: str) -> None:
    state = models.get_model(name, weights=None, init_weights=False, aux_logits=False, num_classes=5).state_dict()
    torch.save(state, tmp_path / "w.pth")
    found = find(name, Wish(str(tmp_path / "w.pth"), {"num_classes": 5, "transform_input": False}))
    network = found.build([])
    assert isinstance(network, torch.nn.Module)
    assert network.transform_input is False
    assert (found.said, found.labels) == ((), ())

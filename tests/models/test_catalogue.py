"""Every mistake in what models are asked for names its place and the remedy; good entries load what they say."""

import os
import pickle
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision import models as torchvision_models

from service.engine.network.resident import Model
from service.errors import CatalogError
from service.models.catalogue import read_catalog, requested
from service.models.sources import sources
from service.models.sources.embedded import EMBEDDED
from service.models.sources.torchvision import torchvision_names
from service.models.weights import read_weights
from service.tasks import task
from tests import tiny
from tests.conftest import CATALOG

GOOD = 'factory = "tests.tiny:classifier"\ninput_size = 32\n'


def catalog(folder: Path, text: str) -> Path:
    path = folder / "catalog.toml"
    path.write_text(text, "utf-8")
    return path


def entry(folder: Path, text: str) -> Any:
    """Return the model of a catalogue with one entry, `m`."""
    return read_catalog(catalog(folder, f"[models.m]\n{text}"))[0]["m"]


def six_channels() -> torch.export.ExportedProgram:
    network = nn.Sequential(nn.Conv2d(6, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    return torch.export.export(network, (torch.rand(2, 6, 32, 32),), dynamic_shapes=({0: torch.export.Dim("batch")},))


# Mistakes in a catalogue


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models = [", "is not TOML"),
        ("default = 5\n[models]", "default: Input should be a valid string (got 5)"),
        ("", "models: Field required"),
        ("defualt = 'm'\n[models]", "defualt: unknown key; did you mean 'default'? The keys are default, models"),
        (f"default = 'n'\n[models.m]\n{GOOD}", "default: there is no [models.n]"),
        (f"default = 'tinny'\n[models.tiny]\n{GOOD}", "default: there is no [models.tinny]; did you mean 'tiny'?"),
        (f"[models.'a.b']\n{GOOD}", "models.a.b: a model name consists of letters, digits, '-' and '_'"),
        (f"[models.m]\n{GOOD}weigths = 'x'", "models.m.weigths: unknown key; did you mean 'weights'? The keys are fa"),
        ("[models.m]", "models.m: give either factory = 'package.module:callable' or torchvision = 'NAME'"),
        (f"[models.m]\n{GOOD}torchvision = 'resnet18'", "models.m: give either factory ="),
        ("[models.m]\nfactory = 'tests.tiny'", "models.m.factory: write it as 'package.module:callable', not 'tests."),
        ("[models.m]\nfactory = 'tests.tinny:vgg'", "models.m.factory: 'tests.tinny:vgg' cannot be imported"),
        (
            "[models.m]\nfactory = 'tests.tiny:vgh'",
            "(AttributeError: module 'tests.tiny' has no attribute 'vgh'); did you m",
        ),
        ("[models.m]\nfactory = 'tests.tinny:vgg'", "install the package, or put the module beside the catalogue"),
        ("[models.m]\nfactory = 'timm:resnet18'", "did you mean 'timm/resnet18'?"),
        ("[models.m]\nsource = ''", "models.m.source: it is empty; name one, or leave it out"),
        ("[models.m]\nsource = 'lesion-count='", "models.m.source: no weights follow its '='; write 'default'"),
        ("[models.m]\nsource = 'six.pt2'", "models.m.channels: the network takes 6, and pictures have 1, 3 or 4; let"),
        (f"[models.m]\n{GOOD}std = []", "models.m.std: 0 numbers for 3 channels"),
        ("[models.m]\nfactory = 'tests.tiny:SIZE'", "models.m.factory: 'tests.tiny:SIZE' is a int; it has to be call"),
        ("[models.m]\ntorchvision = 'resnet51'", "models.m.torchvision: there is no model 'resnet51'; did you mean"),
        (f"[models.m]\n{GOOD}weights = 'nix.pth'", "models.m.weights: no file"),
        (f"[models.m]\n{GOOD}weights = 'nix.pth'", "name a .safetensors or .pth file, 'default' or 'random'"),
        (f"[models.m]\n{GOOD}weights = ''", "models.m.weights: it is empty; name one, or leave it out"),
        (f"[models.m]\n{GOOD}labels = ['a', 'b']", "models.m.labels: name a file of labels, as a text of one label a "),
        (f"[models.m]\n{GOOD}labels = 'nix.txt'", "models.m.labels: '"),
        (f"[models.m]\n{GOOD}task = 'detecting'", "models.m.task: Input should be 'classification', "),
        (f"[models.m]\n{GOOD}resize = 31", "models.m.resize: 31 is less than the input size (32, 32)"),
        (f"[models.m]\n{GOOD}resize = 0", "models.m.resize: Input should be greater than or equal to 1"),
        (f"[models.m]\n{GOOD}resize = 1000000000", "models.m.resize: Input should be less than or equal to 4096"),
        (f"[models.m]\n{GOOD}std = [1, 1, 0]", "models.m: std has to be above 0 in each channel"),
        (f"[models.m]\n{GOOD}std = [1, 1, nan]", "models.m.std.2: Input should be a finite number"),
        (f"[models.m]\n{GOOD}mean = [1, 1]", "models.m.mean: 2 numbers for 3 channels; give 3, or one for all"),
        (f"[models.m]\n{GOOD}interpolation = 'sinc'", "models.m.interpolation: Input should be 'nearest', 'bili"),
        (
            "[models.m]\nfactory = 'tests.tiny:vgg'\ninput_size = 15",
            "models.m: input_size has to lie between 16 and 2048",
        ),
        ("[models.m]\nfactory = 'tests.tiny:vgg'\ninput_size = [32, 4096]", "between 16 and 2048 pixels"),
        ("[models.m]\ntorchvision = 'resnet18'\narguments = {num_classes = 2}", "models.m.weights: "),
        ("[models.m]\nfactory = 'broken_module:net'", "models.m.factory: 'broken_module:net' cannot be imported (Synt"),
    ],
)
def test_mistake_in_a_catalogue(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "broken_module.py").write_text("def net(:\n")
    if "six" in text:
        torch.export.save(six_channels(), tmp_path / "six.pt2")
    path = catalog(tmp_path, text)
    with pytest.raises(CatalogError) as raised:
        read_catalog(path)
    assert says in str(raised.value)
    assert str(raised.value).startswith(f"catalogue {str(path)!r}")


def test_catalogue_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nix.toml"):
        with pytest.raises(CatalogError, match="cannot be read: "):
            read_catalog(path)
    path = tmp_path / "latin.toml"
    path.write_bytes(b"default = '\xe9'")
    with pytest.raises(CatalogError, match="is not TOML"):
        read_catalog(path)


def test_labels_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(CatalogError, match=r"labels: .*labels.txt' cannot be read \(UnicodeDecodeError\)"):
        entry(tmp_path, GOOD + "labels = 'labels.txt'")


# Mistakes in --model


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("resnet51",), "--model resnet51: there is no model 'resnet51'; did you mean 'resnet"),
        (("",), "there is no model ''"),
        (("eficientnet-lite0",), "did you mean 'efficientnet-lite0'? The embedded models are efficientnet-lite0, les"),
        (("nix",), "`heatlens models --torchvision` lists the others"),
        (("tiny", "tiny"), "--model tiny: 'tiny' is given twice"),
        (("tiny=random",), "--model tiny=random: set the weights of 'tiny' in the catalogue"),
        (("lesion-count=random",), "lesion-count is embedded with its weights; write --model lesion-count"),
        (("squeezenet1_1=random", "squeezenet1_1=default"), "to serve one network with several weights, name each in"),
        (("squeezenet1_1=random", "torchvision/squeezenet1_1"), "is given twice, as 'squeezenet1_1' before"),
        (("resnet18=nix.pth",), "no file 'nix.pth'; WEIGHTS is 'default', 'random' or a .safetensors/.pth file"),
    ],
)
def test_mistake_in_an_option(options: tuple[str, ...], says: str) -> None:
    with pytest.raises(CatalogError) as raised:
        requested(options, CATALOG)
    assert says in str(raised.value)


def test_what_is_served_and_which_is_the_default(tmp_path: Path) -> None:
    own = ["tiny", "tiny-regression", "tiny-vgg", "tiny-functional", "tiny-tokens"]
    assert [*requested((), None)[0]] == [*EMBEDDED]
    assert requested((), None)[1] == "efficientnet-lite0"
    assert requested(("lesion-count=default",), None)[1] == "lesion-count"
    specs, default = requested((), CATALOG)
    assert ([*specs], default) == (own, "tiny")
    specs, default = requested(("alexnet=random", "tiny-vgg"), CATALOG)
    assert default == "alexnet"
    assert sorted(specs) == sorted(["alexnet", *own])
    first = catalog(tmp_path, f"[models.b]\n{GOOD}[models.a]\n{GOOD}")
    assert requested((), first)[1] == "b"


class Unforeseen:
    """A source that a library fails in."""

    name = form = "unforeseen"

    def takes(self, text: str, folder: Path) -> bool:
        return text == "unforeseen"

    def names(self) -> tuple[str, ...]:
        return ()

    def network(self, text: str, wish: Any) -> Any:
        raise KeyError("of a library's own")


def test_what_a_library_raises_leaves_the_other_models_standing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.models.sources.base.sources", lambda: (*sources(), Unforeseen()))
    own = catalog(tmp_path, f"[models.m]\nsource = 'unforeseen'\n[models.other]\n{GOOD}")
    specs, _ = read_catalog(own)
    assert "models.m: its source could not be asked for it (KeyError:" in (specs["m"].mistake or "")
    assert specs["other"].mistake is None
    with pytest.raises(CatalogError, match="--model unforeseen: its source could not be asked for it"):
        requested(("unforeseen",), None)


@pytest.mark.parametrize("option", ["lesion-count=", "small=", "tests.models.nets:small="])
def test_weights_that_are_named_by_nothing_are_not_the_default_ones(tmp_path: Path, option: str) -> None:
    """As of a variable that is not set: another network than was meant would be served."""
    with pytest.raises(CatalogError, match=f"--model {option}: no weights follow its '='"):
        requested((option,), catalog(tmp_path, f"[models.small]\n{GOOD}"))


def test_a_name_is_never_taken_over_in_silence(tmp_path: Path) -> None:
    own = catalog(tmp_path, f"[models.small]\n{GOOD}[models.tests-models-nets-small]\n{GOOD}")
    with pytest.raises(CatalogError, match=r"another model has its name, 'small'; name both in a catalogue"):
        requested(("tests.models.nets:small",), own)


def test_two_libraries_networks_of_one_name_are_both_served() -> None:
    pytest.importorskip("timm")
    specs, default = requested(("timm/resnet18=random", "resnet18=random"), None)
    assert {name: spec.source.split()[0] for name, spec in specs.items()} == {
        "resnet18": "timm",
        "torchvision-resnet18": "torchvision",
    }
    assert default == "resnet18"


# Weights


def save(folder: Path, name: str, state: Any) -> Path:
    path = folder / name
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


def changed() -> dict[str, torch.Tensor]:
    """Return weights that the factory itself does not make."""
    return {key: value + 1 for key, value in tiny.classifier().state_dict().items()}


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt"])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "module."])
def test_weights_are_loaded(tmp_path: Path, name: str, wrap: str | None) -> None:
    state: Any = changed()
    if wrap == "module.":
        state = {f"module.{key}": value for key, value in state.items()}
    elif wrap and name != "w.safetensors":
        state = {wrap: state, "epoch": 3}
    save(tmp_path, name, state)
    found = entry(tmp_path, GOOD + f"weights = '{name}'").build().state_dict()
    assert found.keys() == changed().keys()
    assert all(torch.equal(found[key], value) for key, value in changed().items())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s | {"fc.weight": torch.zeros(7, 12)}, r"1 of another shape \(such as 'fc.weight'\)"),
        (lambda s: {k: v for k, v in s.items() if "fc" not in k}, r"2 missing \(such as 'fc.bias'\)"),
        (lambda s: s | {"head.x": torch.zeros(1)}, r"1 unexpected \(such as 'head.x'\)"),
    ],
)
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights_that_do_not_fit(tmp_path: Path, name: str, change: Any, says: str) -> None:
    save(tmp_path, name, change(changed()))
    spec = entry(tmp_path, GOOD + f"weights = '{name}'")
    with pytest.raises(CatalogError, match=f"w.*does not fit the network: keys {says}; name the file that was saved"):
        spec.build()


@pytest.mark.parametrize("state", [[torch.zeros(1)], {"a": 3}, {0: torch.zeros(1)}, torch.zeros(2), {"state_dict": 5}])
def test_file_without_a_state_dict(tmp_path: Path, state: Any) -> None:
    with pytest.raises(CatalogError, match=r"holds no state dict; save model.state_dict\(\)"):
        read_weights(save(tmp_path, "w.pth", state))


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["torch", "pickle", "module", "rubbish", "empty", "safetensors"])
def test_file_that_is_not_tensors_only_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    malicious, path = Malicious(), tmp_path / ("w.safetensors" if how == "safetensors" else "w.pth")
    malicious.path = tmp_path / "harmed"
    if how in ("torch", "module"):
        torch.save({"w": malicious} if how == "torch" else nn.Linear(1, 1), path)
    else:
        path.write_bytes({"rubbish": b"rubbish", "empty": b""}.get(how, pickle.dumps({"w": malicious})))
    spec = entry(tmp_path, GOOD + f"weights = '{path.name}'")
    with pytest.raises(CatalogError, match=r"cannot be read .*tensors only, saved by torch.save"):
        spec.build()
    assert not malicious.path.exists()


def test_weights_that_have_gone(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"does not exist; name a .safetensors or .pth file"):
        read_weights(tmp_path / "w.pth")


# Good entries, and networks that cannot be served


def test_factory(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\n\nb\nc\n", "utf-8")
    text = "input_size = [40, 32]\nresize = 48\ninterpolation = 'nearest'\nmean = [0, 0.5, 1]\nstd = [1, 2, 3]\n"
    spec = entry(
        tmp_path,
        f'factory = "tests.tiny:classifier"\nlabels = "labels.txt"\narguments = {{outputs = 3}}\n{text}',
    )
    assert (spec.name, spec.task, spec.labels) == ("m", task("classification"), ("a", "b", "c"))
    transform = spec.transform
    assert (transform.resize, transform.crop, transform.interpolation) == (48, (40, 32), "nearest")
    assert (transform.mean, transform.std) == ((0, 0.5, 1), (1, 2, 3))
    model = Model(spec, spec.build(), torch.device("cpu"))
    assert model.facts.outputs == 3
    assert "tests.tiny:classifier" in spec.source


def test_factory_beside_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "beside_the_catalogue.py").write_text("from torch import nn\ndef net(): return nn.Linear(2, 3)\n")
    first = entry(tmp_path, "factory = 'beside_the_catalogue:net'").build()
    again = entry(tmp_path, "factory = 'beside_the_catalogue:net'").build()
    assert torch.equal(first.weight, again.weight)  # random ones are seeded


def test_torchvision_with_random_weights(tmp_path: Path) -> None:
    spec = entry(tmp_path, "torchvision = 'squeezenet1_1'\nweights = 'random'")
    assert (spec.transform.crop, spec.transform.resize, len(spec.labels)) == ((224, 224), 256, 1000)
    option = requested(("squeezenet1_1=random",), None)[0]["squeezenet1_1"].build().state_dict()
    found = spec.build().state_dict()
    assert all(torch.equal(found[key], value) for key, value in option.items())
    smaller = entry(
        tmp_path, "torchvision = 'squeezenet1_1'\nweights = 'random'\ninput_size = 64\narguments = {num_classes = 4}"
    )
    assert (smaller.transform.resize, smaller.labels) == (64, ())
    assert smaller.build()(torch.zeros(1, 3, 64, 64)).shape == (1, 4)


def test_torchvision_with_a_file(tmp_path: Path) -> None:
    network = torchvision_models.squeezenet1_1(num_classes=4)
    save(tmp_path, "w.pth", network.state_dict())
    spec = entry(tmp_path, "torchvision = 'squeezenet1_1'\nweights = 'w.pth'\narguments = {num_classes = 4}")
    assert torch.equal(spec.build().state_dict()["classifier.1.weight"], network.state_dict()["classifier.1.weight"])
    option = requested((f"squeezenet1_1={tmp_path / 'w.pth'}",), None)[0]["squeezenet1_1"]
    with pytest.raises(CatalogError, match=r"2 of another shape \(such as 'classifier.1"):
        option.build()


def test_download_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("offline")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    spec = requested(("squeezenet1_1",), None)[0]["squeezenet1_1"]
    with pytest.raises(CatalogError, match=r"cannot be downloaded \(URLError\); give a file with squeezenet1_1=FILE"):
        spec.build()


def test_every_torchvision_network_can_be_asked_for() -> None:
    specs, _ = requested(tuple(f"{name}=random" for name in torchvision_names()), None)
    assert len(specs) > 50
    for spec in specs.values():
        assert len(spec.labels) == 1000
        assert spec.transform.resize >= spec.transform.crop[0] > 100


def test_factory_that_makes_no_network(tmp_path: Path) -> None:
    save(tmp_path, "w.pth", changed())
    for weights in ("default", "random", "w.pth"):
        spec = entry(tmp_path, f"factory = 'builtins:list'\nweights = '{weights}'")
        with pytest.raises(CatalogError, match=r"model 'm': the factory returned a list, not an nn\.Module"):
            spec.build()


def test_labels_have_to_be_as_many_as_outputs(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n", "utf-8")
    spec = entry(tmp_path, GOOD + "labels = 'labels.txt'")
    with pytest.raises(CatalogError, match="2 labels for 5 outputs; give as many labels as the network has outputs"):
        Model(spec, spec.build(), torch.device("cpu"))

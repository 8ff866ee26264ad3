"""Whole networks in a file: exported ones with their layers, TorchScript as a black box, pickles by permission."""

import copy
import importlib
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from service.errors import CatalogError
from service.models.catalogue import read_catalog, requested
from service.models.networks.forms import BlackBox
from service.models.spec import ModelSpec
from tests.models import nets

X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return nets.small().eval()


def exported(path: Path, batch: str | None = "batch") -> Path:
    torch.manual_seed(0)
    torch.export.save(nets.export(batch), path)
    return path


def asked(option: object) -> ModelSpec:
    (spec,) = requested((str(option),), None)[0].values()
    return spec


def test_exported_network_with_its_layers(tmp_path: Path) -> None:
    spec = asked(exported(tmp_path / "my net.v2.pt2"))
    assert (spec.name, spec.transform.crop) == ("my-net-v2", (32, 32))
    assert not any(line.startswith("input_size") for line in spec.assumed)  # the file knows it
    network = spec.build()
    torch.testing.assert_close(network(X), small()(X))
    assert {"conv1", "bn1", "conv2", "gap", "fc"} <= {path for path, _ in network.named_modules()}
    torch.testing.assert_close(copy.deepcopy(network)(X), small()(X))  # variants of it are made of copies


def test_fixed_batch_says_how_to_export(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"exported for batches of 2 only.*; export with dynamic_shapes"):
        asked(exported(tmp_path / "m.pt2", None))


def test_batches_of_one_are_no_others(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(small(), (X[:1],)), tmp_path / "m.pt2")
    torch.testing.assert_close(asked(tmp_path / "m.pt2").build()(X[:1]), small()(X[:1]))


class Takes(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = small()

    def forward(self, x: torch.Tensor, factor: int = 1) -> torch.Tensor:
        return self.inner(x) * factor


BATCH = {0: torch.export.Dim("batch")}


def test_a_number_that_its_caller_chooses_is_refused(tmp_path: Path) -> None:
    chosen = torch.export.Dim.DYNAMIC
    program = torch.export.export(Takes().eval(), (X, 3), dynamic_shapes=(BATCH, chosen))
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(
        CatalogError, match=r"m.pt2': it takes 'factor' beside the picture.*; export a module that binds"
    ):
        asked(tmp_path / "m.pt2").build()


@dataclass
class Answer:
    logits: torch.Tensor


class Answers(Takes):
    def forward(self, x: torch.Tensor) -> Any:
        return Answer(self.inner(x))


def test_an_object_of_an_unknown_class_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.export.register_dataclass(Answer, serialized_type_name="mine.Answer")
    torch.export.save(torch.export.export(Answers().eval(), (X,), dynamic_shapes=(BATCH,)), tmp_path / "m.pt2")
    monkeypatch.delitem(pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE, "mine.Answer")
    with pytest.raises(CatalogError, match=r"of the class 'mine.Answer', which is not known here; export a module"):
        asked(tmp_path / "m.pt2").build()


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) + age

    batch = torch.export.Dim("batch")
    given = (torch.rand(2, 3, 32, 32), torch.rand(2, 1))
    torch.export.save(torch.export.export(Two(), given, dynamic_shapes=({0: batch}, {0: batch})), tmp_path / "m.pt2")
    with pytest.raises(CatalogError, match="takes 2 inputs, and one picture is explained; export a module that binds"):
        asked(tmp_path / "m.pt2")


@pytest.mark.parametrize("make", [nets.scripted, nets.traced])
@pytest.mark.parametrize("suffix", ["pt", "ts", "torchscript"])
def test_torchscript_is_a_black_box(tmp_path: Path, make: object, suffix: str) -> None:
    torch.manual_seed(0)
    (tmp_path / f"m.{suffix}").write_bytes(nets.saved(make()))  # type: ignore[operator]
    spec = asked(tmp_path / f"m.{suffix}")
    network = spec.build()
    assert isinstance(network, BlackBox)
    assert spec.said == ["TorchScript shows no layers: only methods without layers apply"]
    torch.testing.assert_close(network(X), small()(X))


def test_torchscript_that_cannot_be_read(tmp_path: Path) -> None:
    torch.jit.optimize_for_inference(nets.scripted()).save(str(tmp_path / "m.ts"))
    with pytest.raises(CatalogError, match=r"cannot be read as TorchScript \(RuntimeError: .*before optimize_for_inf"):
        asked(tmp_path / "m.ts").build()


def test_pickled_module_only_by_permission(tmp_path: Path) -> None:
    torch.save({"model": small(), "epoch": 3}, tmp_path / "m.pth")
    with pytest.raises(
        CatalogError, match=r"holds weights and no network; name the network they are for, SOURCE=.*m\.pth, "
    ):
        asked(tmp_path / "m.pth")
    (tmp_path / "catalog.toml").write_text("[models.m]\nsource = 'm.pth'\nallow_pickle = true\ninput_size = 32\n")
    torch.testing.assert_close(read_catalog(tmp_path / "catalog.toml")[0]["m"].build()(X), small()(X))


@pytest.mark.parametrize("kind", ["source", "weights"])
def test_class_of_a_pickled_module_beside_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    name = f"class_beside_{kind}"
    (tmp_path / f"{name}.py").write_text("from tests.models.nets import Small\n\n\nclass Mine(Small):\n    pass\n")
    with monkeypatch.context() as there:
        there.syspath_prepend(str(tmp_path))
        torch.save(importlib.import_module(name).Mine(), tmp_path / "m.pth")
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path)])
    keys = "source = 'm.pth'" if kind == "source" else "factory = 'tests.models.nets:small'\nweights = 'm.pth'"
    (tmp_path / "catalog.toml").write_text(f"[models.m]\n{keys}\nallow_pickle = true\ninput_size = 32\n")
    built = read_catalog(tmp_path / "catalog.toml")[0]["m"].build()
    assert type(built).__name__ == ("Mine" if kind == "source" else "Small")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.pt2", None, "there is no file"),
        ("m.pt2", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("m.pt2", b"<html>", "an XML or HTML page"),
        ("m.pt2", b"rubbish", "holds weights and no network"),
        ("best.pth.tar", b"rubbish", "holds weights and no network; name the network they are for, SOURCE="),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogError, match=says):
        asked(tmp_path / name)


def test_no_weights_beside(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="holds its weights, and takes no arguments"):
        asked(f"{exported(tmp_path / 'm.pt2')}=random")


def test_one_version_wherever_the_file_lies(tmp_path: Path) -> None:
    first = exported(tmp_path / "a.pt2")
    (tmp_path / "b.pt2").write_bytes(first.read_bytes())
    specs = [asked(path) for path in (first, tmp_path / "b.pt2")]
    assert len({spec.identity(spec.build()) for spec in specs}) == 1

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

    def forward(self, batch: Any, factor: Any = 1, *, pixels: Any = None) -> torch.Tensor:
        x = batch["x"] if isinstance(batch, dict) else pixels if batch is None else batch
        return self.inner(x) * factor


BATCH = {0: torch.export.Dim("batch")}
TAKEN: dict[str, tuple[tuple[Any, ...], dict[str, Any], Any]] = {
    "a name": ((None,), {"pixels": X}, {"batch": None, "pixels": BATCH}),
    "a dictionary": (({"x": X},), {}, ({"x": BATCH},)),
    "a plain value": ((X, 3), {}, (BATCH, None)),
    "a named value": ((X,), {"factor": 3}, {"batch": BATCH, "factor": None}),
    "its own name": ((), {"batch": X}, {"batch": BATCH}),
}


@pytest.mark.parametrize("how", TAKEN)
def test_the_picture_goes_where_it_was_exported(tmp_path: Path, how: str) -> None:
    args, named, shapes = TAKEN[how]
    torch.export.save(torch.export.export(Takes().eval(), args, named, dynamic_shapes=shapes), tmp_path / "m.pt2")
    network = asked(tmp_path / "m.pt2").build()
    for one in (network, copy.deepcopy(network)):
        torch.testing.assert_close(one(X[:2]), Takes().eval()(*args, **named)[:2])


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


class Drops(torch.nn.Module):
    def __init__(self, drop: float = 0.0, *, own: bool = False) -> None:
        super().__init__()
        self.norm, self.drop = torch.nn.BatchNorm2d(3, track_running_stats=not own), torch.nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(x)).mean((2, 3))


@pytest.mark.parametrize("form", ["exported", "decomposed", "traced"])
def test_what_was_written_down_while_it_trained_is_refused(tmp_path: Path, form: str) -> None:
    def served(network: torch.nn.Module) -> torch.nn.Module:
        path = tmp_path / ("m.ts" if form == "traced" else "m.pt2")
        if form == "traced":
            path.write_bytes(nets.saved(torch.jit.trace(network, X, check_trace=False)))
        else:
            program = torch.export.export(network, (X,), dynamic_shapes=(BATCH,))
            torch.export.save(program.run_decompositions() if form == "decomposed" else program, path)
        return asked(path).build()

    for name, network in {"norm": Drops().train(), "dropout": Drops(0.5, own=True).train()}.items():
        with pytest.raises(CatalogError, match=rf"while it trained \(\w*{name}.*; call network.eval\(\), and export"):
            served(network)
    for network in (Drops(0.5).eval(), Drops(own=True).train()):
        torch.testing.assert_close(served(network)(X), network(X))


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

"""State dicts in every wrapper, under every prefix, and files that are none: read, or refused with what they are."""

import argparse
import gzip
import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models as torchvision_models

from service.errors import CatalogError
from service.models.catalogue import read_catalog, requested
from service.models.spec import ModelSpec
from service.models.weights import AVERAGES, WRAPPERS, fit, read_weights
from service.models.weights import State as Kept
from tests.models import nets

State = dict[str, torch.Tensor]


def trained(seed: int = 1, network: Callable[[], nn.Module] = nets.Small) -> State:
    """Return weights that no factory here makes."""
    torch.manual_seed(seed)
    state = network().state_dict()
    return {key: value + 0.25 if value.is_floating_point() else value + 3 for key, value in state.items()}


def prefixed(prefix: str, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {prefix + key: value for key, value in (trained() if state is None else state).items()}


def asked(folder: Path, factory: str = "small", weights: str = "w.pth", more: str = "") -> ModelSpec:
    text = f"[models.m]\nfactory = 'tests.models.nets:{factory}'\ninput_size = 32\nweights = '{weights}'\n{more}"
    (folder / "catalog.toml").write_text(text)
    return read_catalog(folder / "catalog.toml")[0]["m"]


def holds(network: nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
    found = network.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[key], value) for key, value in state.items())


def file(folder: Path, content: Any, name: str = "w.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


# Wrappers


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_usual_wrapper(tmp_path: Path, wrapper: str) -> None:
    file(tmp_path, {wrapper: trained(), "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}})
    spec = asked(tmp_path)
    assert holds(spec.build(), trained())
    assert any("averaged" in line for line in spec.said) == (wrapper in AVERAGES)


WRAPPED: Mapping[str, Callable[[], Any]] = {
    "by name, as nobody else does": lambda: {"my_weights": trained(), "epoch": 3},
    "two deep": lambda: {"checkpoint": {"model": trained()}, "args": None},
    "ema with its shadow": lambda: {"ema": {"decay": 0.99, "shadow": trained()}, "model": trained(2)},
    "a tuple with the optimiser": lambda: (trained(), {"param_groups": [], "state": {}}),
    "options of argparse": lambda: {"model": trained(), "args": argparse.Namespace(lr=0.1, name="x", path=Path("a"))},
    "a numpy scalar": lambda: {"state_dict": trained(), "best": np.float64(0.5), "n": np.int64(3)},
    "a numpy array": lambda: {"state_dict": trained(), "losses": np.arange(3.0)},
    "numbers among the weights": lambda: trained() | {"epoch": 3, "best": np.float32(0.5)},
    "parameters": lambda: {k: nn.Parameter(v, requires_grad=v.is_floating_point()) for k, v in trained().items()},
    "an ordered dict": lambda: OrderedDict(trained()),
    "half precision": lambda: (
        {k: v.to(torch.float16).to(torch.float32).half() for k, v in trained().items() if v.ndim}
        | {k: v for k, v in trained().items() if not v.ndim}
    ),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_wrapped(tmp_path: Path, how: str) -> None:
    file(tmp_path, WRAPPED[how]())
    found = asked(tmp_path).build().state_dict()
    for key, value in trained().items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-3)
        assert found[key].dtype == value.dtype


def test_averaged_weights_come_first_and_are_said(tmp_path: Path) -> None:
    file(tmp_path, {"state_dict": trained(1), "state_dict_ema": trained(2)})
    spec = asked(tmp_path)
    assert holds(spec.build(), trained(2))
    assert spec.said == ["the weights are the averaged ones of the file ('state_dict_ema'), not the last step's"]


def test_several_networks_in_one_file_are_named(tmp_path: Path) -> None:
    file(tmp_path, {"generator": trained(1), "discriminator": trained(2)})
    with pytest.raises(CatalogError, match="several state dicts, under 'generator', 'discriminator'; save the one"):
        asked(tmp_path).build()


# Prefixes


@pytest.mark.parametrize(
    ("factory", "prefix"),
    [
        ("small", "module."),
        ("small", "_orig_mod."),
        ("small", "module._orig_mod."),
        ("small", "_orig_mod.module."),
        ("small", "model."),
        ("small", "net."),
        ("small", "backbone.encoder."),
        ("parallel", "module."),
        ("parallel", ""),
        ("parallel", "module.module."),
        ("swa", "module."),
        ("swa", ""),
        ("compiled", "_orig_mod."),
        ("compiled", ""),
        ("compiled", "module."),
    ],
)
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_prefixes_on_either_side(tmp_path: Path, factory: str, prefix: str, kind: str) -> None:
    if kind == "pth":
        file(tmp_path, prefixed(prefix))
    else:
        save_file(prefixed(prefix), tmp_path / "w.safetensors")
    spec = asked(tmp_path, factory, f"w.{kind}")
    assert holds(spec.build(), trained())  # what training put around the network is taken off


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model."])
def test_attribute_that_is_called_module(tmp_path: Path, prefix: str) -> None:
    state = prefixed("module.")
    file(tmp_path, prefixed(prefix, state))
    assert holds(asked(tmp_path, "own").build(), state)


def test_averaged_model(tmp_path: Path) -> None:
    network = nets.Small()
    network.load_state_dict(trained())
    file(tmp_path, torch.optim.swa_utils.AveragedModel(network).state_dict())
    for factory in ("small", "swa"):
        assert holds(asked(tmp_path, factory).build(), trained())


def test_parts_that_are_wrapped_on_both_sides(tmp_path: Path) -> None:
    state = trained(1, nets.Inside)
    file(tmp_path, state)
    plain = {key.replace("_orig_mod.", "").replace("module.", ""): value for key, value in state.items()}
    assert holds(asked(tmp_path, "inside").build(), plain)


def test_lightning_with_its_loss(tmp_path: Path) -> None:
    state = prefixed("model.") | {"criterion.weight": torch.ones(3)}
    file(
        tmp_path, {"state_dict": state, "epoch": 3, "pytorch-lightning_version": "2.4", "hyper_parameters": {"lr": 0.1}}
    )
    spec = asked(tmp_path)
    assert holds(spec.build(), trained())
    assert any("1 entries of the file" in line and "'criterion.weight'" in line for line in spec.said)


def test_average_under_a_prefix_comes_first(tmp_path: Path) -> None:
    file(tmp_path, {"state_dict": prefixed("model.", trained(1)) | prefixed("ema_model.", trained(2))})
    spec = asked(tmp_path)
    assert holds(spec.build(), trained(2))
    assert any("'ema_model.'" in line for line in spec.said)


def test_student_and_teacher_are_not_guessed_between(tmp_path: Path) -> None:
    file(tmp_path, prefixed("student.", trained(1)) | prefixed("teacher.", trained(2)))
    with pytest.raises(CatalogError, match=r"several networks of this kind, under the prefixes '(student|teacher)\.'"):
        asked(tmp_path).build()


def test_compiled_part(tmp_path: Path) -> None:
    """`_orig_mod.` stands in the middle of names where a part was compiled."""
    state = {key.replace("conv2.", "conv2._orig_mod."): value for key, value in trained().items()}
    file(tmp_path, state)
    assert holds(asked(tmp_path).build(), trained())


# PyTorch's own loading


def test_old_batch_norms_without_counters(tmp_path: Path) -> None:
    old = {key: value for key, value in trained().items() if "num_batches" not in key}
    file(tmp_path, old)
    save_file(old, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        found = asked(tmp_path, weights=name).build().state_dict()
        assert all(torch.equal(found[key], value) for key, value in old.items())


@pytest.mark.parametrize("kind", ["pth", "safetensors", "module."])
def test_versions_of_modules_are_kept(tmp_path: Path, kind: str) -> None:
    """MNASNet reads its version from the file, and from no other place."""
    network = torchvision_models.mnasnet0_5()
    state = network.state_dict()
    if kind == "safetensors":
        save_file(dict(state), tmp_path / "w.safetensors")
    else:
        torch.save(nn.DataParallel(network).state_dict() if kind == "module." else state, tmp_path / "w.pth")
    path = next(tmp_path.glob("w.*"))
    spec = requested((f"mnasnet0_5={path}",), None)[0]["mnasnet0_5"]
    assert holds(spec.build(), state)


def test_names_that_differ_in_dots_alone() -> None:
    network = nn.ModuleDict({"norm1": nn.BatchNorm2d(3), "conv1": nn.Conv2d(3, 3, 1)})
    state = {key.replace("1.", ".1."): value for key, value in trained(1, lambda: network).items()}
    said = fit(network, Kept(Path("w.pth"), state))
    assert said == ""
    assert torch.equal(network["norm1"].weight, state["norm.1.weight"])


def test_extra_state(tmp_path: Path) -> None:
    file(tmp_path, nets.extra(5).state_dict())
    assert asked(tmp_path, "extra").build().secret == 5


def test_empty_network_on_the_meta_device_takes_a_file(tmp_path: Path) -> None:
    file(tmp_path, trained())
    assert holds(asked(tmp_path, "meta").build(), trained())


def test_lazy_layers_take_a_file(tmp_path: Path) -> None:
    network = nets.lazy()
    network(torch.zeros(1, 3, 32, 32))
    file(tmp_path, network.state_dict())
    assert holds(asked(tmp_path, "lazy").build(), network.state_dict())


# What does not fit


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda s: s | {"fc.weight": torch.zeros(7, 16)},
            r"\('fc.weight' is \(7, 16\) in the file and \(3, 16\) in the",
        ),
        (
            lambda s: s | {"fc.weight": torch.zeros(7, 16)},
            "where these are classes, the network's arguments set how many",
        ),
        (lambda s: {k: v for k, v in s.items() if "running" not in k}, "4 missing"),
        (lambda s: prefixed("a.", s) | {"a.head.x": torch.ones(1)}, "unexpected"),
    ],
)
def test_misfits(tmp_path: Path, change: Callable[[State], State], says: str) -> None:
    file(tmp_path, change(trained()))
    with pytest.raises(CatalogError, match=says):
        asked(tmp_path).build()


# Files


def _zip(path: Path, names: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())


FILES: Mapping[str, tuple[Callable[[Path], Any], str]] = {
    "pointer": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
        "a pointer of Git LFS and not the file itself; fetch the file with `git lfs pull`",
    ),
    "page": (
        lambda p: p.write_text("\n<!DOCTYPE html><html>"),
        "an HTML page and not the file itself; download the file",
    ),
    "json": (lambda p: p.write_text('{"error": "not found"}'), r"text \(JSON\), with no weights in it"),
    "empty": (lambda p: p.write_bytes(b""), r"empty \(0 bytes\); download or save it again"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"x")), "a gzip archive; unpack it"),
    "keras": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "an HDF5 file, as Keras writes them"),
    "numpy": (lambda p: p.write_bytes(b"\x93NUMPY" + bytes(99)), "a numpy array; save a state dict"),
    "zip": (
        lambda p: _zip(p, {"a/b.txt": b"", "c.txt": b""}),
        r"a zip archive of other things \(b.txt, c.txt\); unpack",
    ),
    "script": (
        lambda p: p.write_bytes(nets.saved(nets.traced())),
        "a TorchScript archive, a whole network; write source = 'w.pth'",
    ),
    "export": (lambda p: _zip(p, {"a/archive_format": b"pt2", "a/models/model.json": b"{}"}), "a network exported by"),
    "cut off": (lambda p: p.write_bytes(_bytes(trained())[:-700]), "damaged"),
    "rubbish": (lambda p: p.write_bytes(b"rubbish"), "damaged, cut off, or no file of PyTorch"),
    "tar": (_tar, "no file of PyTorch"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "no file of PyTorch"),
    "module": (
        lambda p: torch.save(nets.Small(), p),
        r"would have to run \(.*\); save the state dict alone, or set allow_p",
    ),
}


def _bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FILES)
def test_files_that_hold_no_weights_are_named(tmp_path: Path, kind: str) -> None:
    write, says = FILES[kind]
    write(tmp_path / "w.pth")
    with pytest.raises(
        CatalogError, match=f"weights file .*w.pth' cannot be read.*{says}.*tensors only, saved by torch"
    ):
        read_weights(tmp_path / "w.pth")


def test_safetensors_under_another_name_and_the_other_way_round(tmp_path: Path) -> None:
    save_file(trained(), tmp_path / "w.bin")
    assert holds(asked(tmp_path, weights="w.bin").build(), trained())
    file(tmp_path, trained(), "w.safetensors")
    assert holds(asked(tmp_path, weights="w.safetensors").build(), trained())


def test_old_archive_of_pytorch(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert holds(asked(tmp_path).build(), trained())


def test_whole_module_only_by_permission(tmp_path: Path) -> None:
    network = nets.Small()
    network.load_state_dict(trained())
    file(tmp_path, network)
    with pytest.raises(CatalogError, match="allow_pickle = true for a file that you trust"):
        asked(tmp_path).build()
    assert holds(asked(tmp_path, more="allow_pickle = true\n").build(), trained())

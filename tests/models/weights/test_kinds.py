"""Files that are no weights, or none that can be read: each is called what it is, with what to do."""

import bz2
import gzip
import io
import lzma
import pickle
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn

from service.errors import CatalogError
from service.models.weights import read_weights
from tests.models import nets
from tests.models.weights.saved import asked, trained


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
        "an XML or HTML page and not the file itself; download the file",
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
    "rubbish": (lambda p: p.write_bytes(b"\xff\x00rubbish"), "damaged, cut off, or no file of PyTorch"),
    "text": (lambda p: p.write_text("Entry not found"), "it is text, which begins 'Entry not found'; download the"),
    "error": (lambda p: p.write_text("<Error><Code>AccessDenied</Code></Error>"), "an XML or HTML page and not the"),
    "tar": (_tar, r"a tar archive of other things \(a.txt\); unpack it"),
    "bzip2": (lambda p: p.write_bytes(bz2.compress(_bytes(trained()))), "a bzip2 archive; unpack it"),
    "xz": (lambda p: p.write_bytes(lzma.compress(_bytes(trained()))), "an xz archive; unpack it"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "a pickle of Python's own; load it in Python, and sa"),
    "safetensors that are cut off": (
        lambda p: p.write_bytes(save(trained())[:-100]),
        "it is cut off: it has [0-9,]+ of [0-9,]+ bytes; download or save it again",
    ),
    "safetensors whose header is cut off": (lambda p: p.write_bytes(save(trained())[:100]), "its header alone has"),
    "module of before 1.6": (
        lambda p: torch.save(nets.Small(), p, _use_new_zipfile_serialization=False),
        r"before PyTorch 1\.6, and holds objects whose code would have to run.*allow_pickle = true",
    ),
    "state of before 1.6 that is cut off": (
        lambda p: p.write_bytes(_bytes(trained(), _use_new_zipfile_serialization=False)[:-700]),
        r"before PyTorch 1\.6, and is damaged or cut off",
    ),
    "module": (
        lambda p: torch.save(nets.Small(), p),
        r"would have to run \(.*\); save the state dict alone, or set allow_p",
    ),
}


def _bytes(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FILES)
def test_files_that_hold_no_weights_are_named(tmp_path: Path, kind: str) -> None:
    write, says = FILES[kind]
    write(tmp_path / "w.pth")
    with pytest.raises(
        CatalogError, match=f"weights file .*w.pth' cannot be read.*{says}.*tensors only, saved by torch"
    ):
        read_weights(tmp_path / "w.pth")


class Ran(nn.Module):
    """A class of a module that goes away."""


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("a_script_that_went", "needs the module 'a_script_that_went', which is not there; put the module"),
        ("tests.models.nets", r"needs tests\.models\.nets\.Ran, which is not there; put the module"),
        ("__main__", "needs the class 'Ran' of a script that ran by itself.* name what makes the network as the fac"),
    ],
)
def test_class_that_is_gone_though_pickles_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, says: str
) -> None:
    with monkeypatch.context() as there:
        there.setattr(Ran, "__module__", place)
        if place not in sys.modules:
            there.setitem(sys.modules, place, types.ModuleType(place))
        there.setattr(sys.modules[place], "Ran", Ran, raising=False)
        torch.save(Ran(), tmp_path / "w.pth")
    with pytest.raises(CatalogError, match=says) as raised:
        asked(tmp_path, more="allow_pickle = true\n").build()
    assert "set allow_pickle" not in str(raised.value)

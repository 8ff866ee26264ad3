"""Networks that are whole files: `FILE.pt2` of torch.export, TorchScript, and pickled modules where that is allowed."""

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import SERIALIZED_TYPE_TO_PYTHON_TYPE

from service.errors import CatalogError
from service.models.exported.inputs import arranged, chosen
from service.models.identity import content
from service.models.sources.base import Network, Wish, importable
from service.models.weights import kind, load

_SUFFIXES = (
    *(".pt2", ".pt", ".pth", ".ts", ".torchscript", ".jit", ".bin", ".ckpt", ".safetensors"),
    *(".pth.tar", ".pt.tar", ".model"),
)
_DYNAMIC = (
    "export with dynamic_shapes: torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim('batch')},))"
)

_KIND = re.compile(r'"type": "([^"]+)"')  # of a class, in how containers are written down


class Files:
    """A file that holds code and weights of a network."""

    name, form = "files", "FILE.pt2 (torch.export)"

    def takes(self, text: str, folder: Path) -> bool:
        """Whether it ends as such files do."""
        return text.lower().endswith(_SUFFIXES)

    def names(self) -> Sequence[str]:
        """Return nothing: any file may be one."""
        return ()

    def network(self, text: str, wish: Wish) -> Network:
        """See `Source.network`."""
        path = wish.folder / text
        if not path.is_file():
            raise CatalogError(f"there is no file {str(path)!r}")
        if wish.weights != "default" or wish.arguments:
            raise CatalogError(f"{text} holds its weights, and takes no arguments; write {text} alone")
        found = kind(path)
        if found not in ("export", "script") and not wish.allow_pickle:
            raise CatalogError(
                f"{text} holds weights and no network; name the network they are for, SOURCE={text}, or, where it is a "
                "whole module that you trust, set allow_pickle = true in a catalogue"
            )
        reading: dict[str, Callable[[Path], Any]] = {"export": _exported, "script": _scripted}
        read: Callable[[Path], Any] = reading.get(found) or partial(_pickled, wish=wish)
        return Network(
            source=str(Path(text)),
            build=lambda said: read(path),
            identity=lambda network: ["file", content(path)],
            preprocessing=_known(path) if found == "export" else {},
            words=f"file {text}",
        )


def _scripted(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript will go
        load_script: Any = torch.jit.load
        try:
            return load_script(path, map_location="cpu")
        except Exception as error:
            raise CatalogError(
                f"{str(path)!r} cannot be read as TorchScript ({type(error).__name__}: {str(error)[:160]}); save it "
                "again with this version of PyTorch, before optimize_for_inference() and other changes for a device"
            ) from None


def _pickled(path: Path, wish: Wish) -> Any:
    importable(wish.folder)  # its class may be in a module there
    found = load(path, allow_pickle=wish.allow_pickle)
    if isinstance(found, dict):
        found = next((value for value in found.values() if isinstance(value, nn.Module)), found)
    if not isinstance(found, nn.Module):
        raise CatalogError(f"{str(path)!r} holds a {type(found).__name__} and no module; name the network it is for")
    return found


def _exported(path: Path) -> nn.Module:
    """Return an exported network, with the modules that it had."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = _program(path)
            if names := chosen(program):
                raise CatalogError(
                    f"it takes {names[0]!r} beside the picture, a number that its caller chooses; export a module that "
                    "binds it"
                )
            return arranged(torch.export.unflatten(program), program)
        except CatalogError as error:
            raise CatalogError(f"{str(path)!r}: {error}") from None
        except Exception as error:
            raise CatalogError(
                f"{str(path)!r} cannot be read as an exported network ({type(error).__name__}: {str(error)[:160]}); "
                "export it again with this version of PyTorch"
            ) from None


def _program(path: Path) -> torch.export.ExportedProgram:
    """Return an exported program; what networks of transformers return is known once that has been imported.

    Raises:
        CatalogError: it takes or returns an object of a class that is not known here.
    """
    kinds = _kinds(path)
    if any(kind.startswith("transformers.") for kind in kinds) and find_spec("transformers") is not None:
        import_module("transformers.modeling_outputs")
    if unknown := [kind for kind in kinds if kind not in SERIALIZED_TYPE_TO_PYTHON_TYPE]:
        raise CatalogError(
            f"it takes or returns an object of the class {unknown[0]!r}, which is not known here; export a module "
            "whose forward takes a tensor and returns a tensor, a tuple or a dictionary"
        )
    return torch.export.load(path)


def _kinds(path: Path) -> list[str]:
    """Return the classes of what an exported network takes and returns, as far as its file says."""
    try:
        module = _graph_module(path)
        signatures = [entry["signature"] for entry in module["module_call_graph"] if not entry["fqn"]]
        specs = [signature[key] for signature in signatures if signature for key in ("in_spec", "out_spec")]
    except (KeyError, ValueError, StopIteration, TypeError):  # of another version
        return []
    return list(dict.fromkeys(kind for spec in specs for kind in _KIND.findall(spec)))


def _known(path: Path) -> dict[str, Any]:
    """Return channels and size of an exported network's input, as far as its file says.

    Raises:
        CatalogError: it takes several inputs, or one number of pictures only.
    """
    try:
        shapes = _input_shapes(path)
    except (KeyError, ValueError, StopIteration, TypeError):  # of another version
        return {}
    if len(shapes) != 1:
        raise CatalogError(
            f"{str(path)!r} takes {len(shapes)} inputs, and one picture is explained; export a module that binds the "
            "others"
        )
    (shape,) = shapes
    if len(shape) != 4:
        raise CatalogError(
            f"{str(path)!r} takes inputs of {len(shape)} axes; pictures have four, (N, channels, height, width)"
        )
    batch, channels, height, width = shape
    if batch not in (None, 1):
        raise CatalogError(
            f"{str(path)!r} was exported for batches of {batch} only, and explanations need others; {_DYNAMIC}"
        )
    known = {"channels": channels, "input_size": (height, width) if height and width else None}
    return {key: value for key, value in known.items() if value is not None}


def _input_shapes(path: Path) -> list[list[int | None]]:
    """Return the shapes of an exported network's inputs; None where any number fits."""
    module = _graph_module(path)
    given = [spec["user_input"]["arg"] for spec in module["signature"]["input_specs"] if "user_input" in spec]
    values = module["graph"]["tensor_values"]
    tensors = [values[arg["as_tensor"]["name"]] for arg in given if "as_tensor" in arg]
    return [[size.get("as_int") for size in tensor["sizes"]] for tensor in tensors]


def _graph_module(path: Path) -> Any:
    """Return what the file of an exported network says of its graph."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".json") and "config" not in name]
        programs = (json.loads(archive.read(name)) for name in names)
        return next(
            program["graph_module"] for program in programs if isinstance(program, dict) and "graph_module" in program
        )


SOURCE = Files()

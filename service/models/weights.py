"""State dicts: read from whatever file people keep them in, and fitted into a network by PyTorch's own loading.

Nothing in a file is run, unless its owner allows it: only tensors, and a few plain values beside them, are read.
"""

import codecs
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from service.errors import CatalogError

# The first one that is there is taken: an average of the weights over the training is what its author evaluates.
AVERAGES = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "params_ema", "ema")
WRAPPERS = (
    *AVERAGES,
    *("state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net", "network_state_dict"),
    *("network", "params", "weights", "module", "model_weights", "shadow"),
)
_HEADS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS and not the file itself",
        "fetch the file with `git lfs pull`, or download it",
    ),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras writes them", "save a state dict from PyTorch"),
    (b"GGUF", "a GGUF file", "save a state dict from PyTorch"),
    (b"\x93NUMPY", "a numpy array", "save a state dict from PyTorch"),
    (b"\x1f\x8b", "a gzip archive", "unpack it, and name the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it, and name the file inside"),
    (b"Rar!", "a RAR archive", "unpack it, and name the file inside"),
    (b"%PDF", "a PDF document", "name the weights' own file"),
)
_ASKED = "it has to hold a state dict: tensors only, saved by torch.save(model.state_dict(), ...) or safetensors"


def _plain_values() -> list[Any]:
    """Return the types of values beside weights that are read: options, numpy's numbers, paths. None runs code."""
    scalar: Any = np.float64(0).__reduce__()[0]
    array: Any = np.zeros(1).__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefdFDSUO"}
    text = (codecs.encode, "_codecs.encode")
    old = [(function, f"numpy.core.multiarray.{function.__name__}") for function in (scalar, array)]
    paths = [PosixPath, PurePosixPath, (PosixPath, "pathlib._local.PosixPath")]
    return [Namespace, OrderedDict, defaultdict, dict, scalar, array, np.dtype, np.ndarray, *dtypes, *old, text, *paths]


@dataclass(frozen=True)
class State:
    """A state dict, as a file holds it."""

    path: Path
    values: Mapping[str, Any]  # tensors by name, and what else modules keep in their state
    metadata: Mapping[str, Any] | None = None  # versions of modules, by which PyTorch migrates old files
    said: tuple[str, ...] = ()


def kind(path: Path) -> str:
    """Return what a file is by its first bytes, or its members: `safetensors`, `torch`, `script`, `export`, or a text.

    Raises:
        CatalogError: it is nothing that holds weights; the message says what it is.
    """
    if not path.is_file():
        raise CatalogError(f"weights file {str(path)!r} does not exist; name a .safetensors or .pth file")
    with path.open("rb") as file:
        head = file.read(512)
    found = remedy = ""
    if not head:
        found, remedy = "empty (0 bytes)", "download or save it again"
    for start, what, then in _HEADS:
        if head.startswith(start):
            found, remedy = what, then
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        found, remedy = "an HTML page and not the file itself", "download the file that the page offers"
    elif text.startswith((b"{", b"[")) and not _is_safetensors(head):
        found, remedy = "text (JSON), with no weights in it", "name the weights' own file"
    if zipfile.is_zipfile(path):
        return _archive(path)
    if found:
        raise CatalogError(f"weights file {str(path)!r} cannot be read as it is {found}; {remedy}; {_ASKED}")
    return "safetensors" if _is_safetensors(head) else "torch"


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors does: the length of a JSON header, and the header."""
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27


def _archive(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] or name for name in archive.namelist()]
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "script"
    if any(
        name.startswith("models/") or name in ("serialized_exported_program.json", "archive_format") for name in names
    ):
        return "export"
    if "data.pkl" in names:
        return "torch"
    inside = ", ".join(sorted(names)[:3])
    raise CatalogError(
        f"weights file {str(path)!r} cannot be read as it is a zip archive of other things ({inside}); unpack it, and "
        f"name the file inside; {_ASKED}"
    )


def load(path: Path, *, allow_pickle: bool = False) -> Any:
    """Return what a file holds: tensors and plain values, or anything at all where its owner allows pickled code.

    Raises:
        CatalogError: it cannot be read, and why.
    """
    found = kind(path)
    if found in ("script", "export"):
        what = "a TorchScript archive" if found == "script" else "a network exported by torch.export"
        raise CatalogError(
            f"weights file {str(path)!r} cannot be read as weights: it is {what}, a whole network; write source = "
            f"{path.name!r} instead of a factory with weights; {_ASKED}"
        )
    try:
        if found == "safetensors":
            return OrderedDict(safetensors.torch.load_file(path))
        # A file and not its path: by a path's suffix PyTorch would choose another reader.
        with path.open("rb") as file, torch.serialization.safe_globals(_plain_values()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=not allow_pickle)
    except Exception as error:
        raise CatalogError(
            f"weights file {str(path)!r} cannot be read ({type(error).__name__}){_foreign(path, found)}; {_ASKED}"
        ) from None


def _foreign(path: Path, found: str) -> str:
    """Return which classes beside tensors are in the way, and the remedy; empty where none are known."""
    if found != "torch":
        return ""
    try:
        with torch.serialization.safe_globals(_plain_values()):
            names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:
        return ": it is damaged, cut off, or no file of PyTorch"
    if not names:
        return ": it is damaged or cut off; download or save it again"
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return (
        f": it holds objects whose code would have to run ({listed}); save the state dict alone, or set "
        "allow_pickle = true for a file that you trust"
    )


def read_weights(path: Path, *, allow_pickle: bool = False) -> State:
    """Read a state dict from a file of PyTorch or safetensors, whatever it is called, and whatever wraps it.

    Raises:
        CatalogError: no such file, or nothing of the kind in it.
    """
    found = _find(load(path, allow_pickle=allow_pickle))
    if not found:
        raise CatalogError(f"weights file {str(path)!r} holds no state dict; save model.state_dict()")
    if len(found) > 1:
        raise CatalogError(
            f"weights file {str(path)!r} holds several state dicts, under {', '.join(repr(f.key) for f in found)}; "
            "save the one that is meant alone: model.state_dict()"
        )
    (one,) = found
    said: tuple[str, ...] = ()
    if one.key.split(".")[-1] in AVERAGES:
        said = (f"the weights are the averaged ones of the file ({one.key!r}), not the last step's",)
    return State(path, dict(one.values), getattr(one.values, "_metadata", None), said)


class _Found(NamedTuple):
    key: str
    values: Mapping[str, Any]


def _find(raw: Any, key: str = "", depth: int = 0) -> list[_Found]:
    """Return the state dicts inside of what a file holds; one where a usual wrapper or the file itself is it."""
    if isinstance(raw, nn.Module):
        return [_Found(key, raw.state_dict())]
    if isinstance(raw, list | tuple) and depth == 0:
        raw = {str(i): value for i, value in enumerate(raw) if isinstance(value, Mapping)}
    if not isinstance(raw, Mapping) or depth > 3:
        return []
    for wrapper in WRAPPERS:
        if found := _find(raw.get(wrapper), f"{key}.{wrapper}".lstrip("."), depth + 1):
            return found
    if raw and all(isinstance(name, str) for name in raw) and any(isinstance(value, Tensor) for value in raw.values()):
        return [_Found(key, raw)]
    return [
        one
        for name, value in raw.items()
        if isinstance(name, str) and "optim" not in name
        for one in _find(value, f"{key}.{name}".lstrip("."), depth + 1)
    ]


# Into a network


def fit(network: nn.Module, state: State, adapt: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None) -> str:
    """Load a state dict into a network, strictly; return what is worth saying of it, or nothing.

    PyTorch's own loading comes first. Where it refuses, names are matched: prefixes on either side, and names that
    differ in dots alone. `adapt` is what the network's library makes of the files of others.

    Raises:
        CatalogError: it does not fit, and which names do not.
    """
    last: Exception | None = None
    for values, versions, said in _readings(network, state, adapt):
        for metadata in (versions, getattr(network.state_dict(), "_metadata", None)):
            given = OrderedDict(values)
            if metadata is not None:
                given._metadata = metadata  # type: ignore[attr-defined]
            try:
                network.load_state_dict(given, strict=True, assign=_is_meta(network))
            except Exception as error:
                last = last or error
            else:
                return said
    raise CatalogError(_misfit(network, state, last)) from None


def _is_meta(network: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in network.parameters())


def _readings(
    network: nn.Module, state: State, adapt: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any] | None, str]]:
    """Yield a state dict under the names that the network may have for it, likely ones first, and modules' versions."""
    own = list(network.state_dict())
    if not own or any(name in state.values for name in own):  # an attempt that must fail may leave a network changed
        yield state.values, state.metadata, ""
    tensors = {name: value for name, value in state.values.items() if isinstance(value, Tensor)}
    left = [name for name in state.values if name not in tensors and name not in own]
    if left:  # numbers and options in one dict with the weights
        kept = {name: value for name, value in state.values.items() if name not in left}
        yield kept, state.metadata, _left_out(left)
    match = matched(own, list(tensors), state.path)
    if match is not None:
        renamed, prefix = match
        taken = {own_name: tensors[name] for name, own_name in renamed.items()}
        rest = [name for name in tensors if name not in renamed]
        # What lies under the network's own prefix belongs to it, and PyTorch will say so.
        strangers = {name: tensors[name] for name in rest if not prefix or name.startswith(prefix)}
        outside = [name for name in rest if name not in strangers and name != "n_averaged"]
        averaged = f"the weights are the averaged ones under {prefix!r}" if "ema" in prefix else ""
        cut = len(prefix.rstrip("."))
        versions = {
            path[cut:].lstrip("."): version
            for path, version in (state.metadata or {}).items()
            if path == prefix.rstrip(".") or path.startswith(prefix)
        }
        yield taken | strangers, versions or None, "; ".join(filter(None, (averaged, _left_out(outside))))
    if adapt is not None:
        try:
            yield adapt(dict(tensors)), None, "the library's own conversion of the file's names was applied"
        except Exception:  # it knows nothing of this file
            return


def _left_out(names: list[str]) -> str:
    return (
        f"{len(names)} entries of the file lie outside of the network and were left out (such as {names[0]!r})"
        if names
        else ""
    )


def matched(own: list[str], given: list[str], path: Path) -> tuple[dict[str, str], str] | None:
    """Return which given name is which own one, and the prefix that given ones have; None where no reading fits all.

    `_orig_mod.`, which compiling adds, counts for nothing anywhere in a name.

    Raises:
        CatalogError: several prefixes fit the whole network, as of a student and a teacher.
    """
    plain = {name.replace("_orig_mod.", ""): name for name in own}
    theirs = {name.replace("_orig_mod.", ""): name for name in given}
    needed = [name for name in plain if not name.endswith("num_batches_tracked")]  # which old files do not have
    if not needed:
        return None
    fits = []
    for before, after in _prefixes(needed, list(theirs)):
        if all(after + name.removeprefix(before) in theirs for name in needed if name.startswith(before)) and all(
            name.startswith(before) for name in needed
        ):
            fits.append((before, after))
    averaged = [fit for fit in fits if "ema" in fit[1].lower()]
    if len(fits) > 1 and averaged:
        fits = averaged[:1]
    if len(fits) > 1:
        named = " and ".join(repr(after) for _, after in fits)
        raise CatalogError(
            f"weights file {str(path)!r} holds several networks of this kind, under the prefixes {named}; save the one "
            "that is meant alone"
        )
    if fits:
        ((before, after),) = fits
        names = {
            theirs[after + n.removeprefix(before)]: plain[n] for n in plain if after + n.removeprefix(before) in theirs
        }
        return names, after
    dotless = {name.replace(".", ""): name for name in own}
    same = {name: dotless[name.replace(".", "")] for name in given if name.replace(".", "") in dotless}
    whole = len(set(same.values())) == len(same) and {plain[name] for name in needed} <= set(same.values())
    return (same, "") if whole else None


def _prefixes(own: list[str], given: list[str]) -> list[tuple[str, str]]:
    """Return the pairs of prefixes (of own names, of given ones) that a name of the network speaks for."""
    longest = max(own, key=lambda name: (name.count("."), len(name)))
    parts = longest.split(".")
    pairs: dict[tuple[str, str], None] = {}
    for cut in range(len(parts)):
        rest, before = ".".join(parts[cut:]), "".join(f"{part}." for part in parts[:cut])
        if any(not name.startswith(before) for name in own):
            break
        for name in given:
            if name == rest or name.endswith(f".{rest}"):
                pairs.setdefault((before, name[: len(name) - len(rest)]))
        if pairs:
            break
    return list(pairs)


def _misfit(network: nn.Module, state: State, error: Exception | None) -> str:
    own = network.state_dict()
    values = dict(state.values)
    missing, extra = sorted(own.keys() - values.keys()), sorted(values.keys() - own.keys())
    shapes = [
        name
        for name in own.keys() & values.keys()
        if getattr(own[name], "shape", None) != getattr(values[name], "shape", None)
    ]
    problems = [
        f"{len(keys)} {what} (such as {keys[0]!r})"
        for keys, what in ((missing, "missing"), (extra, "unexpected"), (sorted(shapes), "of another shape"))
        if keys
    ]
    if not problems:
        reason = str(error).replace("\n", " ")[:200]
        return (
            f"weights file {str(state.path)!r} does not fit the network: {reason}; name the file that was saved from it"
        )
    text = (
        f"weights file {str(state.path)!r} does not fit the network: keys {', '.join(problems)}; "
        "name the file that was saved from this architecture"
    )
    for name in sorted(shapes)[:1]:
        text += f" ({name!r} is {tuple(values[name].shape)} in the file and {tuple(own[name].shape)} in the network"
        heads = own[name].shape[1:] == values[name].shape[1:]
        text += "; where these are classes, the network's arguments set how many)" if heads else ")"
    return text

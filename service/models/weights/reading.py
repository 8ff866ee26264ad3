"""State dicts, read from whatever file people keep them in.

Nothing in a file is run, unless its owner allows it: only tensors, and a few plain values beside them, are read.
"""

import codecs
import re
import warnings
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from service.errors import CatalogError
from service.models.networks import holding
from service.models.weights.kinds import ASKED, kind, why

# Of a key: an average of the weights over the training is what its author evaluates, and comes first.
_AVERAGES = {"ema", "swa", "average", "averaged", "averages", "avg", "shadow", "polyak"}
WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net", "network_state_dict"),
    *("network", "params", "weights", "module", "model_weights"),
)

_ARRAYS = (Tensor, np.ndarray)


def averaged(key: str) -> bool:
    """Whether one of a key's words says that it is an average: `model_ema`, and not `semantic`."""
    return any(word.lower() in _AVERAGES for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", key))


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
            f"{path.name!r} instead of a factory with weights; {ASKED}"
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
            f"weights file {str(path)!r} cannot be read ({type(error).__name__})"
            f"{_why(path, found, error, allow_pickle)}; {ASKED}"
        ) from None


def _why(path: Path, found: str, error: Exception, allow_pickle: bool) -> str:
    with torch.serialization.safe_globals(_plain_values()):
        return why(path, found, error, allow_pickle=allow_pickle)


def read_weights(path: Path, *, allow_pickle: bool = False) -> State:
    """Read a state dict from a file of PyTorch or safetensors, whatever it is called, and whatever wraps it.

    Raises:
        CatalogError: no such file, or nothing of the kind in it.
    """
    raw = load(path, allow_pickle=allow_pickle)
    found = _find(raw)
    if not found:
        raise CatalogError(f"weights file {str(path)!r} holds no state dict; save model.state_dict()")
    if len(found) > 1:
        raise CatalogError(
            f"weights file {str(path)!r} holds several state dicts, under {', '.join(repr(f.key) for f in found)}; "
            "save the one that is meant alone: model.state_dict()"
        )
    (one,) = found
    said = [f"the weights are the averaged ones of the file ({one.key!r}), not the last step's{one.rest}"]
    if not averaged(one.key):
        others = _averages(raw)
        named = ", ".join(map(repr, others[:3]))
        said = [f"averaged weights under {named} are in no form that is read: the others are taken"] if others else []
        if beside := ", ".join(map(repr, _beside(raw, one.values)[:3])):
            said.append(f"the weights are those under {one.key!r}; others of the same names, {beside}, were left out")
    values = {name: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for name, v in one.values.items()}
    return State(path, values, one.versions or getattr(one.values, "_metadata", None), tuple(said))


class _Found(NamedTuple):
    key: str
    values: Mapping[str, Any]
    rest: str = ""  # where the entries are from that an average lacks, in words
    versions: Mapping[str, Any] | None = None


def _find(raw: Any, key: str = "", depth: int = 0) -> list[_Found]:
    """Return the state dicts inside of what a file holds; one where a usual wrapper or the file itself is it."""
    if isinstance(raw, nn.Module):
        return [_Found(key, holding.state(raw))]
    if isinstance(raw, list | tuple) and depth == 0:
        raw = {str(i): value for i, value in enumerate(raw) if isinstance(value, Mapping)}
    if not isinstance(raw, Mapping) or depth > 3:
        return []
    averages = [name for name in raw if isinstance(name, str) and averaged(name) and "optim" not in name.lower()]
    if found := [one for name in averages for one in _find(raw[name], f"{key}.{name}".lstrip("."), depth + 1)]:
        others = {name: value for name, value in raw.items() if name not in averages}
        return [_filled(one, _find(others, key, depth)) for one in found]
    for wrapper in WRAPPERS:
        if found := _find(raw.get(wrapper), f"{key}.{wrapper}".lstrip("."), depth + 1):
            return found
    if raw and all(isinstance(name, str) for name in raw) and any(isinstance(v, _ARRAYS) for v in raw.values()):
        return [_Found(key, raw)]
    return [
        one
        for name, value in raw.items()
        if isinstance(name, str) and "optim" not in name
        for one in _find(value, f"{key}.{name}".lstrip("."), depth + 1)
    ]


def _filled(average: _Found, others: list[_Found]) -> _Found:
    """Return an average with what it lacks, as where only parameters are averaged and buffers are the last step's."""
    whole = [other for other in others if other.values.keys() > average.values.keys()]
    if len(whole) != 1:
        return average
    (last,) = whole
    lacks = len(last.values) - len(average.values)
    rest = f"; {lacks} entries that are not averaged are those of {last.key or 'the file itself'!r}"
    return _Found(average.key, {**last.values, **average.values}, rest, getattr(last.values, "_metadata", None))


def _beside(raw: Any, taken: Mapping[str, Any], key: str = "", depth: int = 0) -> list[str]:
    """Return where a file holds other tensors of the very names that those have which are taken, but for averages."""
    if not isinstance(raw, Mapping) or depth > 3:
        return []
    found = []
    for name, value in raw.items():
        place = f"{key}.{name}".lstrip(".")
        if not isinstance(value, Mapping) or value is taken or not isinstance(name, str) or averaged(name):
            continue
        found += [place] if value.keys() == taken.keys() else _beside(value, taken, place, depth + 1)
    return found


def _averages(raw: Any, key: str = "", depth: int = 0) -> list[str]:
    """Return where a file holds averages, by their names."""
    if not isinstance(raw, Mapping) or depth > 3:
        return []
    found = []
    for name, value in raw.items():
        place = f"{key}.{name}".lstrip(".")
        if isinstance(name, str) and averaged(name) and "optim" not in name.lower() and _holds_tensors(value):
            found.append(place)
        else:
            found += _averages(value, place, depth + 1)
    return found


def _holds_tensors(value: Any, depth: int = 0) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return any(isinstance(one, Tensor) or (depth < 3 and _holds_tensors(one, depth + 1)) for one in inner)

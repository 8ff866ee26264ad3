"""What a model is, in bytes that are the same on every machine: the source's part of its version, and its weights'."""

import hashlib
import inspect
import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from service.models.networks import enclosed, holding

# By its words and not by its tree: Python 3.11 cannot make trees in several threads at a time.
_IMPORT = re.compile(r"^[ \t]*(?:(from)[ \t]+(\.*)([\w.]*)[ \t]+)?import[ \t]+(\([^)]*\)|[^\n#;]*)", re.MULTILINE)
_FEW = 256  # numbers of a tensor, all of which count
_STEPS = tuple(prime**0.5 for prime in (2, 3, 5, 7, 11, 13, 17, 19))
# Libraries that sources know by name: another version of one of them is the same model.
_LIBRARIES = ("torch", "torchvision", "timm", "transformers", "numpy", "PIL", "safetensors", "service")


def digest(network: nn.Module) -> str:
    """Return `sha256:...` over the names, types, shapes and values of all that a network keeps."""
    return version(network, b"")


def version(network: nn.Module, identity: bytes) -> str:
    """Return `sha256:...` over a model's identity and the names, types, shapes and values of all that it keeps."""
    sha = hashlib.sha256(identity)
    for piece in _held(network):
        sha.update(piece)
    return f"sha256:{sha.hexdigest()}"


def _held(network: nn.Module) -> Iterator[bytes]:
    """Yield the content of a network's state, and of what PyTorch does not count as such where it keeps any."""
    state = holding.state(network)
    yield from _pieces(dict(state))
    for path, module in holding.unregistered(network):
        yield path.encode()
        yield from _pieces(dict(holding.state(module)))
    known = {id(value) for value in state.values()}
    for name, value in (*sorted(holding.kept(network).items()), *sorted(enclosed.arrays(network).items())):
        if id(value) not in known:
            yield name.encode()
            try:
                yield from list(_computed(value) if isinstance(value, Tensor) else _pieces(value))
            except RuntimeError:  # of a layout that has no bytes, as nested tensors
                yield f"{value.dtype};".encode()


def _computed(value: Tensor) -> Iterator[bytes]:
    """Yield the content of a tensor that each machine may compute anew, with other last digits.

    A few numbers count as they are. Of more, sums with weights of either sign do, in three digits of the tensor's
    length: other numbers have other sums, and last digits change none of them but by a rare accident.
    """
    dense = value.is_floating_point() and value.layout == torch.strided and not value.is_meta
    if not dense or value.numel() <= _FEW or not torch.isfinite(value).all():
        yield from _tensor(value.detach())
        return
    numbers = value.detach().reshape(-1).double().cpu()
    length = float(numbers.norm())
    place = torch.arange(1, len(numbers) + 1, dtype=torch.float64)
    sums = [float((numbers * (place * step).frac().sub(0.5)).sum()) / max(length, 1e-300) for step in _STEPS]
    yield f"{value.dtype} {tuple(value.shape)} {length:.2e} {[round(one, 3) + 0.0 for one in sums]};".encode()


def _pieces(value: Any) -> Iterator[bytes]:
    """Yield a value's content: tensors, what quantised and other modules keep beside them, and containers of these."""
    if isinstance(value, Tensor):
        yield from _tensor(value.detach())
    elif isinstance(value, np.ndarray | np.generic):
        yield f"{value.dtype} {value.shape};".encode() + value.tobytes()
    elif isinstance(value, Mapping):
        for name, item in sorted(value.items(), key=lambda pair: str(pair[0])):
            yield f"{name} ".encode()
            yield from _pieces(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _pieces(item)
        yield b";"
    elif isinstance(value, set | frozenset):
        yield from _pieces(sorted(value, key=str))
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
        yield f"{value!r};".encode()
    else:
        yield type(value).__qualname__.encode()
        yield from _pieces(getattr(value, "__dict__", None))


def _tensor(value: Tensor) -> Iterator[bytes]:
    yield f"{value.dtype} {tuple(value.shape)};".encode()
    if value.is_quantized:
        if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            yield f"{value.q_scale()!r} {value.q_zero_point()!r};".encode()
        else:
            yield from _pieces(
                [value.q_per_channel_scales(), value.q_per_channel_zero_points(), value.q_per_channel_axis()]
            )
        value = value.int_repr()
    array = value.to_dense().cpu().contiguous()
    yield array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b""


def canonical(value: Any) -> bytes:
    """Return a JSON-like value as bytes, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()


def content(path: Path) -> str:
    """Return the digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def options(network: nn.Module) -> list[Any]:
    """Return the kinds of a network's modules, and the numbers that they keep beside tensors: slopes, strides, factors.

    Texts do not count, among which are names of files and devices: those of one machine.
    """
    kept = ((path, holding.whole(module)) for path, module in holding.modules(network))
    return [
        [
            path,
            type(module).__qualname__,
            {
                key: value
                for key, value in vars(module).items()
                if key[0] != "_" and key != "training" and _plain(value)
            },
        ]
        for path, module in kept
    ]


def _plain(value: Any) -> bool:
    return all(map(_plain, value)) if isinstance(value, tuple | list) else type(value) in (bool, int, float)


def code(of: Iterable[Any]) -> dict[str, str]:
    """Return digests of the modules that callables and classes are written in, and of their neighbours, by name.

    Neighbours are modules of the same package, or files in the same folder. Those of libraries that a source knows by
    name are left out, as are Python's own: `version` tells a model and not its environment.
    """
    found: dict[str, str] = {}
    todo = [_module(value) for value in of]
    while todo:
        module = todo.pop()
        if module is None or module.__name__ in found or _is_library(module.__name__):
            continue
        text = _source(module)
        if text is None:
            continue
        found[module.__name__] = hashlib.sha256(text.encode()).hexdigest()
        used = [*vars(module).values(), *_imports(module, text)]
        near = [other for value in used if (other := _module(value)) and _near(module, other)]
        todo += near
    return found


def _module(value: Any) -> ModuleType | None:
    if isinstance(value, ModuleType):
        return value
    name = getattr(value, "__module__", None)
    return sys.modules.get(name) if isinstance(name, str) else None


def _imports(module: ModuleType, text: str) -> Iterator[ModuleType]:
    """Yield the modules that a module's text imports, or imports something from, wherever in it, as far as loaded."""
    for source, level, whole, several in _IMPORT.findall(text):
        names = [one.split(" as ")[0].strip("( \t\n)") for one in several.split(",")]
        if source:
            package = (module.__package__ or "").split(".")
            above = package[: len(package) + 1 - len(level)] if level else []
            start = ".".join(filter(None, [*above, whole]))
            names = [start, *(f"{start}.{name}" for name in names)]
        yield from (sys.modules[name] for name in names if name in sys.modules)


def _is_library(name: str) -> bool:
    top = name.partition(".")[0]
    return top in _LIBRARIES or top in sys.stdlib_module_names or top == "builtins"


def _near(module: ModuleType, other: ModuleType) -> bool:
    if module.__name__.partition(".")[0] == other.__name__.partition(".")[0]:
        return True
    here, there = getattr(module, "__file__", None), getattr(other, "__file__", None)
    installed = tuple(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib"))
    if not here or not there or any(Path(here).is_relative_to(path) for path in installed):
        return False
    return Path(there).is_relative_to(Path(here).parent)


def _source(module: ModuleType) -> str | None:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):  # written in C, or typed into an interpreter
        return None

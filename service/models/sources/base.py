"""What a source of networks is, and how one is chosen."""

import difflib
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from service.contract import Scale
from service.errors import CatalogError, suggested
from service.models.networks.forms import unwrapped
from service.models.weights import State, fit, read_weights

# Files of other libraries, by how they end.
_OTHERS: Mapping[str, str] = {
    ".onnx": "ONNX",
    ".h5": "Keras",
    ".hdf5": "Keras",
    ".keras": "Keras",
    ".tflite": "TensorFlow Lite",
    ".pb": "TensorFlow",
    ".mlmodel": "Core ML",
    ".mlpackage": "Core ML",
    ".engine": "TensorRT",
    ".plan": "TensorRT",
    ".trt": "TensorRT",
    ".xml": "OpenVINO",
    ".caffemodel": "Caffe",
    ".pte": "ExecuTorch",
    ".ptl": "PyTorch Mobile",
}


@dataclass(frozen=True)
class Wish:
    """What is asked of a source, beside the network's name."""

    weights: str = "default"  # `default`, `random` or a file
    arguments: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()  # what files, folders and modules are looked for beside
    allow_pickle: bool = False

    @property
    def file(self) -> Path | None:
        """Return the weights' file, where they are one."""
        return None if self.weights in ("default", "random") else self.folder / self.weights

    def state(self, path: Path) -> State:
        """Read the weights' file."""
        if self.allow_pickle:
            importable(self.folder)
        return read_weights(path, allow_pickle=self.allow_pickle)


@dataclass(frozen=True)
class Network:
    """What a source knows of a network; nothing is loaded before `build`."""

    source: str  # as it is asked for, without weights: the one way to write it
    build: Callable[[list[str]], object]  # with the weights asked for; what is worth saying is added to the list
    identity: Callable[[nn.Module], Any]  # what it is, JSON-like, the same on every machine
    preprocessing: Mapping[str, Any] = field(default_factory=dict)  # by the catalogue's keys; see `preprocessing.KEYS`
    labels: Sequence[str] = ()
    task: str | None = None  # where the source knows it
    scale: Scale | None = None
    output: str | int | None = None
    words: str = ""  # source and weights, for people
    said: tuple[str, ...] = ()  # what was assumed, in words


class Source(Protocol):
    """One place that networks come from."""

    name: str  # for people: `timm`
    form: str  # how it is written: `timm/NAME[.TAG]`

    def takes(self, text: str, folder: Path) -> bool:
        """Whether a text is written as this source's."""
        ...

    def network(self, text: str, wish: Wish) -> Network:
        """Return what is known of a network of this source.

        Raises:
            CatalogError: there is none of that name, or the wish cannot be met; the message says what is there.
        """
        ...

    def names(self) -> Sequence[str]:
        """Return all that can be asked for, as it is written, where there is a list."""
        ...


def importable(folder: Path) -> None:
    """Let modules beside a catalogue be imported; installed ones come first."""
    if str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))


@cache
def sources() -> tuple[Source, ...]:
    """Return all sources: the files of this folder that have a `SOURCE`."""
    package = importlib.import_module("service.models.sources")
    modules = (
        importlib.import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)
    )
    return tuple(module.SOURCE for module in modules if hasattr(module, "SOURCE"))


def split(text: str, folder: Path) -> tuple[str, str]:
    """Return source and weights of `SOURCE[=WEIGHTS]`; the weights are empty where none are named.

    A file's or folder's own name may contain `=`, as those of checkpoints do.
    """
    whole, _, _ = text.partition("=")
    if "=" not in text or (folder / text).exists():
        return text, ""
    ends = [match.start() for match in re.finditer("=", text)]
    for end in ends:
        if any(source.takes(text[:end], folder) for source in sources()):
            return text[:end], text[end + 1 :]
    return whole, text[len(whole) + 1 :]


def find(text: str, wish: Wish) -> Network:
    """Return what is known of the network that a text names.

    Raises:
        CatalogError: no source has it; the message says which sources there are, and the nearest name in each.
    """
    for source in sources():
        if source.takes(text, wish.folder):
            if wish.file is not None and not wish.file.is_file():
                raise CatalogError(
                    f"no file {str(wish.file)!r}; WEIGHTS is 'default', 'random' or a .safetensors/.pth file"
                )
            return source.network(text, wish)
    raise CatalogError(unknown(text, wish.folder))


def unknown(text: str, folder: Path) -> str:
    """Return the message for a text that is written as no source's, or that its source does not have."""
    if (folder / text).is_dir() and text:
        return (
            f"the folder {text!r} has no config.json; a folder is one that transformers' save_pretrained writes, and "
            "weights alone are named behind a source: SOURCE=FILE"
        )
    if other := next((what for end, what in _OTHERS.items() if text.lower().endswith(end)), None):
        return (
            f"{text!r} is written as a file of {other}, which is not read; export the network from PyTorch, by "
            "torch.export.save, and name FILE.pt2"
        )
    if meant := colon(text, folder):
        return f"there is no model {text!r}" + suggested([meant])
    near = {source.name: nearest(text, source.names()) for source in sources()}
    # A plain name comes first, unless another source has this very one.
    ranked = sorted((name for name in near.values() if name), key=lambda name: ("/" in name, -likeness(text, name)))
    best = next((name for name in ranked if likeness(text, name) == 1.0), next(iter(ranked), ""))
    forms = "; ".join(
        source.form + (f" (nearest: {near[source.name]!r})" if near[source.name] else "") for source in sources()
    )
    embedded = next(source for source in sources() if source.name == "embedded")
    then = (
        f"the embedded models are {', '.join(embedded.names())}, and `heatlens models --torchvision` lists the others "
        f"of torchvision. Sources are: {forms}"
    )
    return f"there is no model {text!r}" + suggested([best] if best else [], then)


def colon(text: str, folder: Path) -> str | None:
    """Return what a text with a colon may have been meant as, where `/`, `=` or a module's name belongs there."""
    if hub := re.fullmatch(r"hf[-_]hub:([\w.-]+/[\w.-]+)", text):
        return hub[1] if hub[1].startswith("timm/") else f"hf/{hub[1]}"
    before, sign, after = text.removesuffix("()").partition(":")
    if not sign:
        return None
    if before.endswith(".py") or before.startswith("./") or text.endswith("()"):
        return f"{before.removesuffix('.py').removeprefix('./').replace('/', '.')}:{after}"
    if any(source.takes(f"{before}/", folder) for source in sources()):
        return f"{before}/{after}"
    return f"{before}={after}" if any(source.takes(before, folder) for source in sources()) else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.rpartition("/")[2].lower())


def likeness(text: str, name: str) -> float:
    """Return how alike two names are, 0 to 1, whatever their case and signs."""
    return difflib.SequenceMatcher(None, _plain(text), _plain(name)).ratio()


def nearest(text: str, names: Sequence[str]) -> str | None:
    """Return the name that is most like a text; None where none is."""
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(_plain(name), name)
    found = difflib.get_close_matches(_plain(text), by_plain, n=1, cutoff=0.5)
    return by_plain[found[0]] if found else None


def seeded(build: Callable[[], Any]) -> Any:
    """Return what a call makes under a fixed seed, without a trace left on the random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def fitted(network: nn.Module, state: State, said: list[str], adapt: Any = None) -> nn.Module:
    """Return a network with a file's weights; what is worth saying is added to the list."""
    try:
        found = fit(network, state, adapt)
    except CatalogError:
        if (plain := unwrapped(network)) is network and not any(
            "_orig_mod" in k or "module" in k for k in state.values
        ):
            raise
        network, found = plain, fit(plain, state, adapt)
    said += [*state.said, *filter(None, [found])]
    return network


def named(source: str) -> str:
    """Return a model's name made of its source: its last part, in signs that an address takes."""
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", source):
        last = source.partition(":")[2]
    else:
        last = re.sub(
            r"\.(pt2|pt|pth|ts|torchscript|jit|bin)$", "", source.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
        )
    return written(last)


def written(text: str) -> str:
    """Return a text in the signs of names: anything but letters, digits, `-` and `_` becomes `-`."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text).strip("-") or "model"

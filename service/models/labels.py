"""Labels: read from a file of lines, or of JSON; and ImageNet's."""

import ast
import importlib.util
import json
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import dropwhile
from pathlib import Path
from typing import Any

from service.errors import CatalogError

_TREES = threading.Lock()  # Python 3.11 cannot make syntax trees in several threads at a time
_WRITE = (
    'write a JSON list of strings, an object from index to label ({"0": "cat", ...}), or a text file with one label a '
    "line"
)
_OTHERS = frozenset({".yaml", ".yml", ".toml", ".pbtxt", ".xml", ".html"})  # whose lines are no labels
# A line with a number before its label, or behind it.
_NUMBERED = (
    re.compile(r"(?P<index>\d{1,9})\s*[\s,;:=]\s*(?P<label>\S.*)"),
    re.compile(r"(?P<label>.*\S)\s*[\s,;:=]\s*(?P<index>\d{1,9})"),
)
# Of labels beside other things in a file.
_USUAL = ("id2label", "idx_to_class", "class_names", "labels", "classes", "names", "categories", "class_to_idx")


def imagenet_labels() -> tuple[str, ...]:
    """Return the 1,000 ImageNet class names, as torchvision has them."""
    return _listed() or _of_weights()


def _listed() -> tuple[str, ...]:
    """Return the names from the file that torchvision keeps them in; none where it keeps them elsewhere.

    Importing torchvision takes as long as importing torch, for a list of words.
    """
    package = importlib.util.find_spec("torchvision")
    folders = package.submodule_search_locations if package is not None else None
    for folder in folders or ():
        spec = importlib.util.spec_from_file_location("_imagenet", Path(folder) / "models" / "_meta.py")
        if spec is None or spec.loader is None:
            continue
        module = importlib.util.module_from_spec(spec)
        with suppress(Exception):
            spec.loader.exec_module(module)
        names = getattr(module, "_IMAGENET_CATEGORIES", ())
        if len(names) == 1000 and all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()


def _of_weights() -> tuple[str, ...]:
    from torchvision.models import EfficientNet_B0_Weights

    return tuple(EfficientNet_B0_Weights.DEFAULT.meta["categories"])


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the labels in a file, in the order of outputs.

    A text file holds one a line, maybe with its index; lines without text, a comment at the beginning, blanks around
    and a byte-order mark count for nothing. A JSON file
    holds a list, or an object from index to label (or from label to index), as servers of models use them, maybe beside
    others under a usual name, as in a configuration. A dictionary or a list as Python prints them will do.

    Raises:
        CatalogError: it cannot be read, or an index is missing, or there is none; the message begins with the key.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        remedy = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else "; name a file of labels"
        raise CatalogError(f"labels: {str(path)!r} cannot be read ({type(error).__name__}){remedy}") from None
    told = path.suffix.lower() == ".json" or text.lstrip().startswith("{")
    if told or text.lstrip().startswith("["):
        try:
            return _some(_of_json(_loaded(text)), path)
        except (ValueError, TypeError, KeyError) as error:
            if told:  # else a line may begin so
                raise CatalogError(
                    f"labels: {str(path)!r} holds no labels that can be read ({error}); {_WRITE}"
                ) from None
    if path.suffix.lower() in _OTHERS:
        raise CatalogError(f"labels: {str(path)!r} is no file of labels that is read; {_WRITE}")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _some(_of_lines(list(dropwhile(lambda line: line.startswith("# "), lines))), path)


def _of_lines(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of lines, in their order; where each has a number beside it, in that of numbers.

    Numbers count from 0 or 1 and leave none out: others are part of the names.
    """
    for form in _NUMBERED:
        matches = [match for line in lines if (match := form.fullmatch(line)) is not None]
        found = {int(match["index"]): match["label"].strip("\"' ") for match in matches}
        if len(matches) == len(lines) == len(found) and len(set(found.values())) > 1:
            first = min(found)
            if first in (0, 1) and max(found) - first + 1 == len(found):
                return tuple(found[index] for index in sorted(found))
    return tuple(lines)


def _some(labels: tuple[str, ...], path: Path) -> tuple[str, ...]:
    if not labels:
        raise CatalogError(f"labels: {str(path)!r} holds none; write one label a line, or leave `labels` out")
    return labels


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        try:
            with _TREES:
                return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise error from None


def _of_json(found: Any) -> tuple[str, ...]:
    if isinstance(found, Mapping):
        held = {name: value for name, value in found.items() if isinstance(value, Mapping | list)}
        usual = [name for name in _USUAL if name in held]
        if usual or len(found) == len(held) == 1:
            found = held[usual[0] if usual else next(iter(held))]  # {"id2label": {...}}
    if isinstance(found, Mapping):
        if all(isinstance(value, int) for value in found.values()):
            found = {index: label for label, index in found.items()}
        by_index = {int(index): label for index, label in found.items()}
        if sorted(by_index) != list(range(len(by_index))):
            raise ValueError(f"its indices are not 0 to {len(by_index) - 1}")
        found = [by_index[i] for i in range(len(by_index))]
    # A list as last part is a WordNet number and its word, ["n02124075", "Egyptian_cat"].
    labels = [item[-1] if isinstance(item, list) and item else item for item in found]
    if not all(isinstance(label, str) for label in labels):
        raise ValueError("a label is no string")
    return tuple(label.strip() for label in labels)

"""The table of methods as a file, so that it is told without PyTorch and without a network.

`python -m tests.openapi` writes it from the registry, and with `--check` tells where they differ.
"""

import importlib.resources
import inspect
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from service.errors import UnknownMethod, did_you_mean

FILE = importlib.resources.files("service.methods") / "table.json"


@cache
def _read() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(FILE.read_text("utf-8"))
    return found


@cache
def table() -> Mapping[str, Mapping[str, Any]]:
    """Return what is known of each method, by name: what `described` returned when the file was written."""
    return {entry["name"]: entry for entry in _read()["methods"]}


def families() -> Mapping[str, str]:
    """Return every family of methods with the sentence that says what its methods have in common."""
    found: Mapping[str, str] = _read()["families"]
    return found


def entry(name: str) -> Mapping[str, Any]:
    """Return what is known of one method.

    Raises:
        UnknownMethod: there is none of that name.
    """
    if name not in table():
        raise UnknownMethod(
            f"there is no method {name!r}{did_you_mean(name, table())}; there are: {', '.join(table())}"
        )
    return table()[name]


def described(cls: Any) -> dict[str, Any]:
    """Return what is known of a method, given its class."""
    text = inspect.getdoc(cls) or ""
    return {
        "name": cls.name,
        "title": cls.__name__,
        "family": cls.family,
        "summary": text.partition("\n")[0],
        "description": text,
        "reference": cls.reference,
        "requirement": cls.requirement,
        "cost": cls.cost,
        "kind": cls.kind,
        "needs": [word for word, needed in (("image", cls.needs_image), ("targets", cls.takes_targets)) if needed],
        "parameters": cls.model_json_schema(),
    }


def as_text(registry: Mapping[str, Any], families: Mapping[str, str]) -> str:
    """Return the file's text, a line a method, given the classes and the families' sentences by name."""
    lines = [json.dumps(described(cls), ensure_ascii=False) for _, cls in sorted(registry.items())]
    rows = ",\n".join(lines)
    return f'{{"families": {json.dumps(dict(families), ensure_ascii=False)},\n"methods": [\n{rows}\n]}}\n'

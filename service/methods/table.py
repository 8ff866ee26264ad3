"""The table of methods as a file, so that it is told without PyTorch and without a network.

`python -m tests.openapi` writes it from the registry, and with `--check` tells where they differ.
"""

import importlib.resources
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from service.errors import UnknownMethod

FILE = importlib.resources.files("service.methods") / "table.json"


@cache
def _read() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(FILE.read_text("utf-8"))
    return found


@cache
def table() -> Mapping[str, Mapping[str, Any]]:
    """Return what is known of each method, by name, in order."""
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
        raise UnknownMethod.among(name, table())
    return table()[name]

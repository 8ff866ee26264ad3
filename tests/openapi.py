"""Writes `openapi.yaml`, or checks that it is up to date: `python -m tests.openapi [--check]`."""

import difflib
import json
import sys
from pathlib import Path

import yaml

from service.api.documentation import openapi
from service.app import create_app

PATH = Path(__file__).parent.parent / "openapi.yaml"


def as_yaml() -> str:
    """Return the OpenAPI document as YAML, the same text each time."""
    plain = json.loads(json.dumps(openapi(create_app())))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)


def main() -> None:
    """Write, or with `--check` compare and exit with 1 on a difference."""
    text = as_yaml()
    if "--check" not in sys.argv:
        PATH.write_text(text, "utf-8")
        return
    written = PATH.read_text("utf-8") if PATH.exists() else ""
    if written != text:
        diff = difflib.unified_diff(written.splitlines(), text.splitlines(), "openapi.yaml", "the code", lineterm="")
        sys.exit("\n".join([*list(diff)[:80], "openapi.yaml is out of date: run python -m tests.openapi"]))


if __name__ == "__main__":
    main()

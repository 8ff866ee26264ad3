"""Imports point one way, and every method has its test."""

import ast
import importlib
from pathlib import Path

import pytest

from service.explainers.base import registry

ROOT = Path(__file__).parent.parent
# A part of the service, and what of the service it may import. Parts are named by their first two segments.
MAY_IMPORT = {
    "errors": set(),
    "metrics": set(),
    "tracing": set(),
    "logs": set(),
    "process": set(),
    "server": {"settings"},
    "settings": set(),
    "models": {"models"},
    "images": {"errors"},
    "rendering": {"errors", "images"},
    "explainers": {"errors", "explainers"},
    "engine": {"errors", "tracing", "process", "engine", "explainers.base", "images", "models"},
    "pipeline": {"errors", "settings", "images", "rendering", "explainers.base", "engine"},
    "api": {
        "errors",
        "metrics",
        "tracing",
        "settings",
        "rendering",
        "explainers.base",
        "engine",
        "pipeline",
        "api",
        "",
    },
    "tuning": {"errors", "settings", "images", "explainers", "engine", "__version__"},
    "app": {"errors", "process", "metrics", "tracing", "settings", "engine", "pipeline", "tuning", "api", ""},
    "gallery": {"rendering", "pipeline", "explainers.base", "engine.run", "api"},
    "cli": {
        "gallery",
        "process",
        "logs",
        "server",
        "errors",
        "settings",
        "rendering",
        "explainers",
        "engine",
        "api",
        "app",
        "",
    },
    "__main__": {"cli"},
    "": set(),
}
FOREIGN = {
    "explainers": {"fastapi", "starlette", "PIL", "uvicorn"},
    "engine": {"fastapi", "starlette", "PIL", "uvicorn"},
    "images": {"fastapi", "starlette"},
    "rendering": {"fastapi", "starlette", "torch"},
    "pipeline": {"fastapi", "starlette", "PIL"},
}
FILES = sorted((ROOT / "service").rglob("*.py"))


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module != "service":
                found.add(str(node.module))
            if node.module in ("service", "service.api", "service.engine", "service.explainers", "service.models"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    part = path.relative_to(ROOT / "service").with_suffix("").parts[0].removesuffix("__init__")
    for name in _imports(path):
        top, _, inside = name.partition(".")
        assert top not in FOREIGN.get(part, set()), f"{part} imports {name}"
        if top != "service" or inside in ("__version__", part):
            continue
        allowed = MAY_IMPORT[part]
        assert any(inside == a or (a and inside.startswith(a + ".")) for a in allowed), f"{part} imports {name}"


@pytest.mark.parametrize("name", registry())
def test_every_method_has_an_oracle(name):
    module = importlib.import_module(f"tests.explainers.test_{name.replace('-', '_')}")
    marks = [mark for test in vars(module).values() for mark in getattr(test, "pytestmark", [])]
    assert any(mark.name == "oracle" and mark.args == (name,) for mark in marks)


def test_one_file_a_method():
    files = {path.stem for path in (ROOT / "service" / "explainers").glob("*.py")} - {"__init__", "base"}
    assert {name.replace("-", "_") for name in registry()} == files

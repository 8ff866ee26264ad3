"""The client stands alone: without the rest of the service, without PyTorch, and under a name of its own."""

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import service
from service import client

FOLDER = Path(client.__file__).parent
PROGRAM = """
import sys
blocked = {"service", "torch", "PIL", "fastapi", "starlette", "orjson", "click"}
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import heatlens_client
for name in dir(heatlens_client):
    getattr(heatlens_client, name)
from heatlens_client import Client, wire
print(wire.__name__, Client("http://127.0.0.1:1", max_retries=0).ready())
"""


def test_it_stands_alone_as_a_distribution_of_its_own(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "heatlens_client", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "heatlens_client.wire False\n"


def test_importing_it_loads_no_types_of_the_wire():
    """Which take longer than all else of it, and are needed only once there is an answer."""
    program = "import sys; from service.client import AsyncClient, Client; print('pydantic.main' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


def test_the_distribution_is_of_the_services_version_and_needs_what_is_imported():
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == service.__version__
    assert project["license"] == "Apache-2.0"
    needed = {name.partition(">")[0] for name in project["dependencies"]}
    imported = set()
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add((node.module or "").partition(".")[0])
    assert imported - sys.stdlib_module_names == needed


def test_names_are_those_that_editors_see():
    tree = ast.parse((FOLDER / "__init__.py").read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname for node in block.body for alias in node.names}
    assert seen == client._HOME.keys()
    assert all(getattr(client, name).__name__ == name for name in seen)
    assert seen <= set(dir(client))
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        _ = client.Clint

"""Runs README's examples for Python in a notebook, against a server: `python -m tests.client.notebook [PYTHON]`.

Needs a package index, or the Python of an environment that has the client, nbclient and ipykernel. The client is
installed alone, beside a notebook's kernel; a notebook is written of README's own code, cell by cell, and executed;
what the cells show is looked at.
"""

import ast
import base64
import io
import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from PIL import Image

from service.settings import Settings
from tests.conftest import encoded, photograph, serving

ROOT = Path(__file__).parents[2]
EXECUTE = """
import sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(book, timeout=300).execute()
nbformat.write(book, sys.argv[1])
"""
SERVER = "http://127.0.0.1:8000"  # as README calls it


def cells(text: str, url: str) -> list[str]:
    """Return README's examples of the client, a cell each, asking the server at an address.

    The last expression of a cell is what a notebook shows: behind the example that ends by naming what was found stands
    `e` alone, as README says that a notebook shows it.
    """
    blocks = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "hl" in _names(block)]
    if len(blocks) < 2 or SERVER not in "".join(blocks):
        raise ValueError("README has no examples of the client any more")
    return [f"{block.replace(SERVER, url)}{'e' if 'e = ' in block else ''}".strip() for block in blocks]


def _names(block: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Name)}


def notebook(sources: list[str]) -> dict[str, Any]:
    """Return a notebook of code cells."""
    made = [
        {"cell_type": "code", "id": f"cell-{i}", "metadata": {}, "execution_count": None, "outputs": [], "source": one}
        for i, one in enumerate(sources)
    ]
    return {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def shown(outputs: list[dict[str, Any]]) -> tuple[list[tuple[int, int]], str]:
    """Return the sizes of all pictures that a cell shows, and the text that it prints."""
    sizes, text = [], ""
    for one in outputs:
        text += "".join(one.get("text", ""))
        page = "".join(one.get("data", {}).get("text/html", ""))
        for data in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page):
            sizes.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
    return sizes, text


def _installed(folder: Path) -> str:
    """Make an environment with the client and a notebook's kernel; return its Python."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", str(ROOT / "service" / "client"), "nbclient", "ipykernel"]
    subprocess.run(install, check=True)
    return python


def main() -> None:
    """Write, run, and look.

    Raises:
        SystemExit: a cell fails, or shows something else than README says.
    """
    with tempfile.TemporaryDirectory() as name, serving(Settings(device="cpu")) as server:
        folder = Path(name)
        for file, picture in (("cat.jpg", "chelsea"), ("dog.jpg", "coffee")):
            (folder / file).write_bytes(encoded(photograph(picture).convert("RGB"), "JPEG"))
        path = folder / "readme.ipynb"
        readme = (ROOT / "README.md").read_text("utf-8")
        path.write_text(json.dumps(notebook(cells(readme, str(server.base_url).rstrip("/")))), "utf-8")
        python = sys.argv[1] if sys.argv[1:] else _installed(folder / "venv")
        subprocess.run([python, "-c", EXECUTE, str(path)], check=True, cwd=folder)
        ran = json.loads(path.read_text("utf-8"))
        found = [shown(cell["outputs"]) for cell in ran["cells"]]
        for cell, (sizes, text) in zip(ran["cells"], found, strict=True):
            print("".join(cell["source"]), "\n ->", len(sizes), "pictures", sizes, "\n ->", text[-300:].strip())
        pictures, printed = [size for sizes, _ in found for size in sizes], found[-1][1]
        if not pictures or any(min(size) < 100 for size in pictures):
            sys.exit("the notebook shows no map")
        if "cat.jpg" not in printed or "dog.jpg" not in printed or "Error" in printed:
            sys.exit("not every picture was explained")


if __name__ == "__main__":
    main()

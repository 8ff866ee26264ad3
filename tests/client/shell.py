"""Runs README's requests by curl as they stand, against a server: `python -m tests.client.shell`.

The server has the default network and those of painted shapes, and the pictures that the requests name are there. What
curl writes is looked at: JSON is no problem, and a file is what its name says.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from service.settings import Settings
from tests.client.notebook import ROOT, SERVER
from tests.conftest import encoded, photograph, serving
from tests.training.shapes.painting import KINDS, paint

SHAPES = ROOT / "tests" / "training" / "shapes" / "catalog.toml"


def lines(text: str) -> list[str]:
    """Return the lines of all blocks for a shell, with those that a command is broken into joined."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]


def commands(text: str) -> list[str]:
    """Return README's requests by curl, each on one line.

    Raises:
        ValueError: there are none.
    """
    found = [line for line in lines(text) if line.startswith("curl ")]
    if not found or any(SERVER not in line for line in found):
        raise ValueError("README has no requests by curl any more")
    return found


def pictures(folder: Path) -> None:
    """Write the pictures that README's requests name."""
    (folder / "cat.jpg").write_bytes(encoded(photograph("chelsea").convert("RGB"), "JPEG"))
    for seed, name in enumerate(("shapes", "like", "unlike")):
        paint(np.random.default_rng(seed), KINDS).image.save(folder / f"{name}.png")


def written(command: str, folder: Path, output: bytes) -> Iterator[str]:
    """Say what a command wrote.

    Raises:
        ValueError: it is a problem, or not what the command asks for.
    """
    named = re.search(r" -o (\S+)", command)
    if named is None:
        answer = json.loads(output)
        if "instance" in answer:
            raise ValueError(answer["detail"])
        yield f"JSON with {', '.join(answer)}"
        return
    file = folder / named[1]
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            yield f"{file.name} with {', '.join(archive.namelist())}"
        return
    with Image.open(file) as picture:
        if all(low == high for low, high in picture.convert("RGB").getextrema()):
            raise ValueError(f"{file.name} is of one colour")
        yield f"{file.name}, {picture.format} of {picture.width} x {picture.height}"


def main() -> None:
    """Run all, and print what each wrote.

    Raises:
        SystemExit: there is no curl, or one of them failed.
    """
    if shutil.which("curl") is None:
        sys.exit("there is no curl")
    failed = 0
    settings = Settings(model=("efficientnet-lite0",), catalog=SHAPES, device="cpu")
    with tempfile.TemporaryDirectory() as name, serving(settings) as server:
        folder, url = Path(name), str(server.base_url).rstrip("/")
        pictures(folder)
        for command in commands((ROOT / "README.md").read_text("utf-8")):
            print(command)
            asked = command.replace("curl ", "curl -sS --fail-with-body ", 1).replace(SERVER, url)
            ran = subprocess.run(["bash", "-c", asked], cwd=folder, capture_output=True, check=False)
            try:
                if ran.returncode:
                    raise ValueError(f"{ran.stderr.decode()} {ran.stdout[:500].decode(errors='replace')}")
                for one in written(command, folder, ran.stdout):
                    print("  ->", one)
            except (ValueError, OSError, zipfile.BadZipFile) as error:
                failed += 1
                print("  -> FAILED:", error)
    if failed:
        sys.exit(f"{failed} of README's requests failed")


if __name__ == "__main__":
    main()

"""Kills a run at random moments and goes on with it: `python -m tests.bulk.killing [--kills 10] [--pictures 200]`.

In the end every picture has to be there once, whole, with one line. Part of the pictures are broken, and a run that
nobody kills has to name them and exit with 1.
"""

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import CATALOG

_ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}  # the service beside this file


def main() -> None:
    """Run, kill, and look at what is there.

    Raises:
        AssertionError: something is lost, torn, or done twice.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broken = paint(folder / "in", given.pictures)
        command = [sys.executable, "-m", "service", "explain", "score-cam", "in", "-o", "out/", "--write", "png,npy"]
        command += ["--catalog", str(CATALOG), "--model", "tiny", "--device", "cpu"]
        for i in range(given.kills):
            with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, env=_ENVIRONMENT) as process:
                _wait_for_a_line(folder / "out" / "manifest.jsonl", process)
                time.sleep(chance.random() * 0.3)
                process.kill()
            print(f"kill {i + 1}: {len(_lines(folder))} lines", flush=True)
        last = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=_ENVIRONMENT)
        print(last.stderr.strip().splitlines()[-1])
        found = _lines(folder)
        names = [line["path"] for line in found]
        assert len(names) == len(set(names)) == given.pictures, "a picture is missing, or has two lines"
        assert {line["path"] for line in found if "problem" in line} == broken
        assert last.returncode == 1
        written = {file for line in found for file in line["files"]}
        there = {path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*") if path.is_file()}
        assert there - written == {"manifest.jsonl"}, sorted(there - written)[:5]
        for file in written:
            path = folder / "out" / file
            np.load(path) if path.suffix == ".npy" else Image.open(path).load()
        print(f"{given.pictures} pictures once each, {len(broken)} of them failures, {len(written)} whole files")


def paint(folder: Path, count: int, every: int = 20) -> set[str]:
    """Write pictures, one of so many broken; return the names of those."""
    folder.mkdir()
    broken, chance = set(), random.Random(0)
    for i in range(count):
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, "PNG")
        data = buffer.getvalue()
        if i % every == 7:
            broken.add(f"in/{i:03}.png")
            data = data[: chance.randrange(10, len(data) // 2)]
        (folder / f"{i:03}.png").write_bytes(data)
    return broken


def _lines(folder: Path) -> list[dict[str, object]]:
    path = folder / "out" / "manifest.jsonl"
    text = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()[1:]]


def _wait_for_a_line(path: Path, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a run has written something, or has ended."""
    size = path.stat().st_size if path.exists() else 0
    while process.poll() is None and (not path.exists() or path.stat().st_size == size):
        time.sleep(0.01)


if __name__ == "__main__":
    main()

"""Pictures a second, one at a time and several: `python -m tests.load.bulk [--pictures 64] [--method grad-cam]`.

On the embedded model, for a machine that does nothing else. Several in flight have to be 1.3 times as fast as one, or
keep the cores they may have 90 % busy. Kills are in `tests.bulk.killing`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.load.traffic import ROOT, picture


def run(folder: Path, method: str, in_flight: int, count: int) -> tuple[float, float]:
    """Return pictures a second, and the cores that were busy meanwhile, from the first picture on."""
    command = [sys.executable, "-m", "service", "explain", method, "in", "-o", f"out-{in_flight}/"]
    command += ["--in-flight", str(in_flight), "--device", "cpu"]
    manifest = folder / f"out-{in_flight}" / "manifest.jsonl"
    with subprocess.Popen(
        command, cwd=folder, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as process:
        watched = psutil.Process(process.pid)
        lines = 0
        while lines < 1 + in_flight and process.poll() is None:  # the question, and a first round
            lines = manifest.read_bytes().count(b"\n") if manifest.exists() else 0
            time.sleep(0.01)
        begun, first, before = time.monotonic(), lines, sum(watched.cpu_times()[:2])
        while lines < 1 + count and process.poll() is None:
            lines = manifest.read_bytes().count(b"\n")
            used, took = sum(watched.cpu_times()[:2]) - before, time.monotonic() - begun
            time.sleep(0.01)
    return (lines - first) / took, used / took


def main() -> int:
    """Run, print, and say with the exit status whether it is quick enough."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.bulk")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--method", default="grad-cam")
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for i in range(given.pictures):
            (folder / "in" / f"{i:03}.jpg").write_bytes(picture("medium", i))
        found = {n: run(folder, given.method, n, given.pictures) for n in (1, 8)}
    for n, (rate, busy) in found.items():
        print(f"{given.method}, {n} in flight: {rate:6.2f} pictures/s, {busy:.2f} of {cores} cores busy")
    ratio, share = found[8][0] / found[1][0], found[8][1] / cores
    print(f"{ratio:.2f} times as fast, {share:.0%} of the cores busy")
    return int(ratio < 1.3 and share < 0.9)


if __name__ == "__main__":
    sys.exit(main())

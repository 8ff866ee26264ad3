"""Ray Data, cut off for real: `python -m tests.load.ray_data [--pictures 120]`; needs the extra `ray`.

A run on a cluster of its own is killed (SIGKILL, the driver) once half of its pictures have been written; the second
one has to do the rest and only the rest. Then one whose actor is killed (SIGKILL) in its midst, which loses nothing.
One picture in a hundred is broken, and has to be a row.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from tests.bulk.killing import paint
from tests.conftest import CATALOG

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run, print, and say with the exit status whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.ray_data")
    parser.add_argument("--pictures", type=int, default=120)
    given = parser.parse_args()
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broken = paint(folder / "in", given.pictures, every=100)
        wrong += driver_killed(folder, given.pictures, broken)
        wrong += actor_killed(folder, given.pictures, broken)
    print("\n".join(f"VIOLATION {text}" for text in wrong) or "all well")
    return bool(wrong)


def driver_killed(folder: Path, count: int, broken: set[str]) -> list[str]:
    """Kill the driver half-way, and go on; return what went wrong."""
    out = folder / "killed"
    with _begun(folder, out) as process:
        _until(process, lambda: len(_rows(out)) >= count // 2)
        cluster = psutil.Process(process.pid).children(True)
        process.kill()
    psutil.wait_procs(cluster, 60)  # which ends when it finds that its driver has gone
    before, files = _rows(out), _files(out)
    print(f"driver killed with {len(before)} of {count} rows whole", flush=True)
    wrong = [] if 0 < len(before) < count else ["it was not killed half-way"]
    with _begun(folder, out) as process:
        said = process.communicate()[1].decode()
    print(f"second run: {said.strip().splitlines()[-1]}", flush=True)
    kept = set(before) <= set(_rows(out)) and all(_files(out).get(name) == one for name, one in files.items())
    return wrong + ([] if kept else ["what was there was done again"]) + _faults(out, count, broken, process.returncode)


def actor_killed(folder: Path, count: int, broken: set[str]) -> list[str]:
    """Kill the actor that holds the device; return what went wrong."""
    out = folder / "lost"
    with _begun(folder, out) as process:
        _until(process, lambda: len(_rows(out)) >= count // 4)
        actors = [one for one in psutil.Process(process.pid).children(True) if "Explain" in " ".join(_cmdline(one))]
        for one in actors:
            one.send_signal(signal.SIGKILL)
        print(f"{len(actors)} actor(s) killed with {len(_rows(out))} of {count} rows whole", flush=True)
        said = process.communicate()[1].decode()
    print(f"the run: {said.strip().splitlines()[-1]}")
    return ([] if actors else ["no actor was found"]) + _faults(out, count, broken, process.returncode)


def _faults(out: Path, count: int, broken: set[str], status: int) -> list[str]:
    rows = _rows(out)
    twice = [name for name, n in Counter(name for name, _ in rows).items() if n > 1]
    failed = {name for name, error in rows if error}
    print(f"{len(rows)} rows of {count} pictures, {len(twice)} twice, {len(failed)} of them failures; exit {status}")
    wrong = [] if len(rows) == count and not twice else ["a picture is missing, or has two rows"]
    wrong += [] if failed == broken else [f"failures are {sorted(failed)}, not {sorted(broken)}"]
    return wrong + ([] if status == (1 if broken else 0) else [f"exit {status}"])


def _begun(folder: Path, out: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "service", "explain", "score-cam", "in", "-o", f"{out}/", "--ray", "local"]
    command += ["--catalog", str(CATALOG), "--model", "tiny", "--device", "cpu", "--in-flight", "4"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)


def _until(process: "subprocess.Popen[bytes]", reached: Callable[[], bool]) -> None:
    while process.poll() is None and not reached():
        time.sleep(0.05)


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _rows(out: Path) -> list[tuple[str, str]]:
    """Return names and errors of all whole rows whose writing has been noted."""
    found: list[tuple[str, str]] = []
    done = {path.stem for path in (out / "done").glob("*.parquet") if ".pending" not in path.name}
    for path in (out / "maps").glob("*.parquet"):
        if any(path.stem.startswith(one) for one in done):
            table = pq.read_table(path, columns=["path", "error"]).to_pydict()
            found += zip(table["path"], table["error"], strict=True)
    return found


def _files(out: Path) -> dict[str, float]:
    """Return when each file was written that is noted."""
    done = {path.stem for path in (out / "done").glob("*.parquet") if ".pending" not in path.name}
    return {p.name: p.stat().st_mtime for p in (out / "maps").glob("*") if any(p.stem.startswith(d) for d in done)}


if __name__ == "__main__":
    sys.exit(main())

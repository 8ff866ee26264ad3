"""Two versions of the server, side by side: processor time a request, rounds taking turns, medians of their ratios.

    python -m tests.bench.versions --other CHECKOUT [--rounds 15] [--model resnet18=random] [--settled]

CHECKOUT is a work tree of another version. Each version serves the same models in a process of its own, started with
the same interpreter; what is counted is the time that all threads of the server took, user and system, from before a
request is sent until its answer is there, less what a resting server takes. Pictures are new in every round, so that
no cache answers, and both versions get the same ones. The first of a round alternates.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.bench.subject import picture

ROOT = Path(__file__).parents[2]
PNG = {"accept": "image/png"}
NPY = {"accept": "application/x-npy"}


@dataclass(frozen=True)
class Case:
    """One kind of request."""

    path: str
    fields: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    repeats: int = 1  # requests a round: short ones vanish in the clock's grain
    picture: bool = True


def cases(narrow: str) -> dict[str, Case]:
    """Return what is asked; `narrow` is a layer of few channels."""
    return {
        "grad-cam": Case("/explain/grad-cam", {}, repeats=8),
        "grad-cam, PNG": Case("/explain/grad-cam", {}, PNG, repeats=8),
        "grad-cam, npy": Case("/explain/grad-cam", {}, NPY, repeats=8),
        "cam": Case("/explain/cam", {}, repeats=8),
        "saliency": Case("/explain/saliency", {}, repeats=4),
        "saliency, SmoothGrad of 16": Case("/explain/saliency", {"params": {"smooth_samples": 16}}),
        "occlusion": Case("/explain/occlusion", {"precision": "fp32"}),
        "score-cam, few channels": Case("/explain/score-cam", {"params": {"layer": narrow}, "precision": "fp32"}),
        "deconvnet": Case("/explain/deconvnet", {}, repeats=2),
        "feature-maps": Case("/explain/feature-maps", {}, repeats=4),
        "filters": Case("/explain/filters", {"params": {"steps": 4, "channels": [0, 1]}}, picture=False),
        "predict": Case("/predict", {}, repeats=8),
    }


class Version:
    """A server of one version."""

    def __init__(self, root: Path, model: str, folder: Path, *, tune: bool) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | {
            "HEATLENS_CACHE_DIR": str(folder),
            "HEATLENS_TUNE": str(tune).lower(),
            "HEATLENS_VERIFY": "false",  # older versions take it for a mistake, and go on
            "HEATLENS_MODEL": model,
        }
        command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--log-level", "error"]
        self.process = subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.DEVNULL)
        self.counted = psutil.Process(self.process.pid)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600)
        self._until(lambda: self.client.get("/health/ready?model=*").status_code == 200)
        if tune:
            name = self.client.get("/models").json()["models"][0]["name"]
            self._until(lambda: self.client.get(f"/models/{name}").json()["tuning"] is not None)

    @staticmethod
    def _until(true: Callable[[], bool]) -> None:
        ends = time.monotonic() + 600
        while time.monotonic() < ends:
            with contextlib.suppress(httpx.TransportError):
                if true():
                    return
            time.sleep(0.2)
        raise SystemExit("a server was not ready within 600 s")

    def seconds(self, case: Case, pictures: Sequence[bytes]) -> float:
        """Return the processor time of some requests."""
        before = self._processor_s()
        for data in pictures:
            form = {"request": json.dumps(dict(case.fields))}
            files = {"image": ("picture.jpg", data)} if case.picture else None
            if files is None:
                response = self.client.post(case.path, json=dict(case.fields), headers=dict(case.headers))
            else:
                response = self.client.post(case.path, data=form, files=files, headers=dict(case.headers))
            response.raise_for_status()
        return self._processor_s() - before

    def _processor_s(self) -> float:
        times = self.counted.cpu_times()
        return float(times.user + times.system)

    def close(self) -> None:
        """Stop the server."""
        self.process.terminate()
        self.process.wait(60)


def race(versions: Sequence[Version], case: Case, rounds: int) -> Iterator[tuple[float, float]]:
    """Yield the processor seconds of both versions, round by round; the first round warms up and does not count."""
    for number in range(rounds + 1):
        pictures = [picture() for _ in range(case.repeats)]
        times = [0.0, 0.0]
        for i in (0, 1) if number % 2 else (1, 0):
            times[i] = versions[i].seconds(case, pictures) / case.repeats
        if number:
            yield times[0], times[1]


def main() -> None:
    """Race this version against another."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.versions", description=__doc__)
    parser.add_argument("--other", type=Path, required=True, help="a work tree of the other version")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--narrow", default="blocks.4", help="a layer of few channels, for Score-CAM")
    parser.add_argument("--settled", action="store_true", help="measure both servers first")
    parser.add_argument("--only", nargs="+", default=(), metavar="CASE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        versions = [
            Version(root, given.model, Path(folder) / name, tune=given.settled)
            for name, root in (("this", ROOT), ("other", given.other.resolve()))
        ]
        try:
            print(f"{given.model}, {'settled' if given.settled else 'fresh'}, {given.rounds} rounds")
            print("| Request | this, ms | other, ms | this / other, median (quartiles) |\n| --- | --- | --- | --- |")
            for name, case in cases(given.narrow).items():
                if given.only and name not in given.only:
                    continue
                times = list(race(versions, case, given.rounds))
                low, middle, high = statistics.quantiles([a / b for a, b in times], n=4)
                mine, theirs = (statistics.median(t[i] for t in times) * 1e3 for i in (0, 1))
                print(f"| {name} | {mine:.1f} | {theirs:.1f} | {middle:.2f} ({low:.2f}-{high:.2f}) |", flush=True)
        finally:
            for version in versions:
                version.close()


if __name__ == "__main__":
    main()

"""Two versions of the server, side by side: processor time a request, rounds taking turns, medians of their ratios.

    python -m tests.bench.versions --other CHECKOUT [--rounds 15] [--model resnet18=random] [--settled]

CHECKOUT is a work tree of another version. Each version serves the same models in a process of its own, started with
the same interpreter; what is counted is the time that all threads of the server took, user and system, from before a
request is sent until its answer is there, less what a resting server takes. Pictures are new in every round, so that
no cache answers, and both versions get the same ones. The first of a round alternates.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.served import ROOT, Served
from tests.bench.subject import picture

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


def seconds(server: Served, case: Case, pictures: Sequence[bytes]) -> float:
    """Return the processor time of some requests."""
    before = server.processor_s()
    for data in pictures:
        form = {"request": json.dumps(dict(case.fields))}
        files = {"image": ("picture.jpg", data)} if case.picture else None
        if files is None:
            response = server.client.post(case.path, json=dict(case.fields), headers=dict(case.headers))
        else:
            response = server.client.post(case.path, data=form, files=files, headers=dict(case.headers))
        response.raise_for_status()
    return server.processor_s() - before


def race(versions: Sequence[Served], case: Case, rounds: int) -> Iterator[tuple[float, float]]:
    """Yield the processor seconds of both versions, round by round; the first round warms up and does not count."""
    for number in range(rounds + 1):
        pictures = [picture() for _ in range(case.repeats)]
        times = [0.0, 0.0]
        for i in (0, 1) if number % 2 else (1, 0):
            times[i] = seconds(versions[i], case, pictures) / case.repeats
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
        tune = {"HEATLENS_TUNE": str(given.settled).lower()}
        versions = [
            Served(Path(folder) / name, (given.model,), root=root, environment=tune, ready="/health/ready?model=*")
            for name, root in (("this", ROOT), ("other", given.other.resolve()))
        ]
        try:
            if given.settled:
                for version in versions:
                    version.settled()
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

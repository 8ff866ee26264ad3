"""How many forwards Score-CAM takes less where its map may be off by a bound, and how far off it is then.

`python -m tests.bench.certified`: crops of the package's photographs, each explained exactly and within bounds. Rows
are run once a crop: with an error bound the first ones of them are asked for.
"""

import argparse
import importlib.resources
import io
import random
import statistics
import sys
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from service.contract import Explanation, Rows, Sketch, Targets
from service.engine.probe import ModelProbe
from service.engine.scheduler.run import Run
from service.explainers.cam.score_cam import ScoreCAM
from service.process import prepare_process
from tests.bench.measure import Options, Row
from tests.bench.subject import EMBEDDED, Ours, Subject, ours, scratch

BOUNDS = {0.1: None, 0.05: 1.6, 0.02: None, 0.01: 1.2}  # and how many times fewer rows there should be


class Once(ModelProbe):
    """A probe that answers from rows which were all asked for before."""

    known: Tensor
    asked: list[tuple[int, int]]

    def scores(self, rows: Rows, *, sketch: Sketch | None = None) -> Tensor:
        key: Hashable = rows.key
        first, last = key[1:] if isinstance(key, tuple) and len(key) == 3 else (0, rows.count)  # a part of all
        if last - first == rows.count and hasattr(self, "known"):
            self.asked.append((first, last))
            return self.known[first:last]
        self.asked = []
        self.known = super().scores(rows, sketch=sketch)
        return self.known


def crops(count: int, first: int = 0) -> Iterator[bytes]:
    """Yield random square parts of the package's photographs, of 45 % to all of their shorter side."""
    files = sorted((importlib.resources.files("service") / "photographs").iterdir(), key=lambda file: file.name)
    for number in range(first, first + count):
        dice = random.Random(number)
        with files[number % len(files)].open("rb") as file:
            whole = Image.open(file).convert("RGB")
        side = round(min(whole.size) * dice.uniform(0.45, 1))
        left, top = dice.randint(0, whole.width - side), dice.randint(0, whole.height - side)
        buffer = io.BytesIO()
        whole.crop((left, top, left + side, top + side)).save(buffer, "PNG")
        yield buffer.getvalue()


def outside(found: Explanation, exact: Explanation) -> tuple[float, float]:
    """Return how far a map is from the exact one at the best factor, and its bound, as shares of the maximum."""
    ours, true = found.maps[0].array, exact.maps[0].array
    if found.exact:
        return float((ours - true).abs().max() / true.max()), 1e-5
    low, high = found.details["scale"][0]
    factors = torch.linspace(low, high, 4001)[:, None, None]
    assert found.error_bound is not None
    return float(((ours * factors - true).abs().amax((1, 2)) / true.max()).min()), found.error_bound


def measured(
    service: Ours, subject: Subject, pictures: Iterator[bytes]
) -> Iterator[tuple[float, int, int, float, float]]:
    """Yield bound, all rows, those that were asked for, the error and its bound; for each picture and bound."""
    model, device = service.context.store.get(None), service.context.device
    for data in pictures:
        x, targets = subject.input(data).to(device.device), Targets(service.facts)
        probe = Once(model, device, Run())
        exact = ScoreCAM().explain(probe, x, targets)
        for bound in BOUNDS:
            probe.asked = []
            found = ScoreCAM(error_bound=bound).explain(probe, x, targets)
            rows = max(last for _, last in probe.asked)
            yield bound, exact.details["distinct_masks"], rows, *outside(found, exact)


def rows_of(options: Options, folder: Path, count: int, first: int = 0) -> Iterator[Row]:
    """Yield a row of the table a bound."""
    subject = Subject(options.model, folder)
    with ours(subject, options.device, tune=False) as service:
        found = list(measured(service, subject, crops(count, first)))
    for bound, aim in BOUNDS.items():
        own = [(every, rows, error, limit) for one, every, rows, error, limit in found if one == bound]
        ratios = [every / rows for every, rows, _, _ in own]
        beyond = sum(error > limit for _, _, error, limit in own)
        ratio = statistics.median(ratios)
        yield Row(
            "certified",
            f"score-cam of {subject.name}, error_bound {bound:g}: {count} crops, {min(ratios):.2f} to "
            f"{max(ratios):.2f} times fewer rows; largest error {max(error for *_, error, _ in own):.4f}",
            statistics.median(rows for _, rows, _, _ in own),
            "rows",
            "exact",
            statistics.median(every for every, *_ in own),
            ratio,
            aim=f"{aim:g} x" if aim else "",
            failed=f"{beyond} maps outside of their bound" if beyond else None,
            rounds={"ratios": ratios},
        )


def run(options: Options, folder: Path) -> Iterator[Row]:
    """See `rows_of`."""
    yield from rows_of(options, folder, options.pick(2, 50))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a bound; return 1 where a map is outside of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.certified", description=__doc__)
    parser.add_argument("--crops", type=int, default=50, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first crop (default: %(default)s)")
    parser.add_argument("--model", default=EMBEDDED)
    given = parser.parse_args(arguments)
    prepare_process()
    with scratch() as folder:
        options = Options(False, torch.device("cpu"), 1, given.model)
        rows = list(rows_of(options, folder, given.crops, given.first))
    for row in rows:
        print(
            f"{row.name}; median {row.ratio:.3f} x fewer", row.failed or "", [round(r, 2) for r in row.rounds["ratios"]]
        )
    return 1 if any(row.failed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

"""What the numbers of `/compare` say of all methods on the embedded network: `python -m tests.bench.faithfulness`.

Crops of photographs of scikit-image's and the package's, or of `--photographs DIR`: of each, each method's gain over
random maps, whether it beats the bell in the middle of the picture, and what it costs. What is measured is kept in a
file (`--out`) and gone on with, so that a run may be cut into several: `--seconds` ends one, `--table` only prints.
"""

import argparse
import io
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import skimage.data
from PIL import Image

from service.answer import Needs
from service.app import build, close
from service.client import wire
from service.comparison.asking import Compare
from service.comparison.comparing import Comparing, plan
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import rows_key
from service.explainers.base import registry
from service.pipeline import applicability
from service.sanity.verifier import Verifier
from service.settings import Settings

RACED = (
    *(
        "cam",
        "grad-cam",
        "grad-cam++",
        "layer-cam",
        "hires-cam",
        "xgrad-cam",
        "finer-cam",
        "eigen-grad-cam",
        "saliency",
    ),
    *("gradient-x-input", "deep-lift", "guided-backprop", "lrp", "full-grad", "recipro-cam", "ablation-cam"),
)
CHEAP = 200  # passes of a map: dearer methods are tried on fewer crops
CROPS, FEW = 40, 8
NAMES = ("astronaut", "chelsea", "coffee", "rocket")  # of scikit-image, where they are files of the package


def crops(folder: Path | None) -> Iterator[tuple[str, bytes]]:
    """Yield crops with their names: all of each photograph and its four corners, and each of these mirrored."""
    if folder is not None:
        photographs = [(path.stem, Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())]
    else:
        photographs = [(name, Image.fromarray(getattr(skimage.data, name)())) for name in NAMES]
    parts = [(0, 0, 1, 1), (0, 0, 0.7, 0.7), (0.3, 0, 1, 0.7), (0, 0.3, 0.7, 1), (0.3, 0.3, 1, 1)]
    for mirrored in (False, True):
        for part in parts:
            for name, picture in photographs:
                w, h = picture.size
                crop = picture.crop(tuple(round(edge * side) for edge, side in zip(part, (w, h, w, h), strict=True)))
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else crop
                file = io.BytesIO()
                crop.save(file, "PNG")
                yield f"{name} {part}{' mirrored' * mirrored}", file.getvalue()


def measure(service: Any, found: dict[str, Any], until: float, folder: Path | None, keep: Callable[[], Any]) -> None:
    """Compare on one crop after the other, as far as the time goes."""
    facts = service.store.get(None).facts
    fit = [name for name, reason in applicability(facts).items() if reason is None and registry()[name].needs_image]
    fit = [name for name in fit if registry()[name].takes_targets]
    dear = {name for name in fit if registry()[name]().settled(facts).passes(facts, 1) > CHEAP}
    for i, (crop, png) in enumerate(crops(folder)):
        if i == CROPS:
            break
        left = [name for name in fit if name not in found.setdefault(crop, {}) and (name not in dear or i < FEW)]
        left.sort(key=lambda name: name in dear)
        for part in [left[n : n + 3] for n in range(0, len(left), 3)]:
            if time.monotonic() > until:
                return
            done = Comparing(service.pipeline, plan(service.pipeline, Compare.of({"methods": part}, png)), Run()).work(
                Needs(None)
            )
            bell = done.controls[0].bell.model_dump() if done.controls else {}
            for entry in done.entries:
                if entry.problem is None and entry.cost is not None:
                    gain = entry.faithfulness[0].gain.model_dump()
                    passes = entry.cost.forwards + 2 * entry.cost.backwards
                    found[crop][entry.method] = {"gain": gain, "bell": bell, "passes": passes}
            keep()


def table(found: dict[str, Any], known: dict[str, wire.Sanity]) -> str:
    """Return the table: medians over crops, n in each row."""
    rows: dict[str, list[Any]] = defaultdict(list)
    for crop in found.values():
        for method, numbers in crop.items():
            rows[method].append(numbers)
    lines = [
        "| Method | Gain: blur | Gain: mean colour | Beats the bell | n | Sanity | w | c | Passes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method, numbers in sorted(rows.items()):
        cells = []
        for name in ("blur", "mean"):
            values = [one["gain"][name] for one in numbers if one["gain"][name] is not None]
            cells.append(f"{statistics.median(values):+.1f}" if values else "-")
        pairs = [
            one["gain"][name] > one["bell"][name]
            for one in numbers
            for name in ("blur", "mean")
            if one["gain"][name] is not None and one["bell"].get(name) is not None
        ]
        wins = f"{100 * sum(pairs) / len(pairs):.0f} %" if pairs else "-"
        sanity = known.get(method, wire.Sanity(verdict="not yet tested"))
        w, c = ("-" if one is None else f"{one:.2f}" for one in (sanity.mprt, sanity.random_logit))
        passes = round(statistics.median(one["passes"] for one in numbers))
        told = (f"`{method}`", *cells, wins, str(len(numbers)), sanity.verdict, w, c, str(passes))
        lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines)


def race(service: Any) -> None:
    """Say what twelve methods on one picture take beside their own passes, and how near that is to the best loop."""
    model, (_, png) = service.store.get(None), next(crops(None))
    fit = [name for name in RACED if applicability(model.facts)[name] is None][:12]
    asked = plan(service.pipeline, Compare.of({"methods": fit}, png))
    for what in ("first", "again"):
        run, started = Run(), time.perf_counter()
        done = Comparing(service.pipeline, asked, run).work(Needs(None))
        seconds = time.perf_counter() - started
        own = sum(entry.cost.forwards for entry in done.entries if entry.cost is not None)
        own_s = sum(entry.cost.seconds for entry in done.entries if entry.cost is not None)
        print(
            f"{what}: {len(done.entries)} methods, {run.usage.forwards} rows, {run.usage.forwards - own} of them for "
            f"numbers (bound {560 + 60 * len(done.entries)}), {seconds:.1f} s, {seconds - own_s:.1f} s of them"
        )
        if what == "first":
            rows, numbers_s = run.usage.forwards - own, seconds - own_s
    key = rows_key(model, model.facts.input_shape, "fp32")
    batch = service.device.limits.of(key)
    x = model.example()[:1].repeat(batch, 1, 1, 1)

    def loop() -> float:
        started = time.perf_counter()
        for _ in range(-(-256 // batch)):
            model.forward(x)
        return -(-256 // batch) * batch / (time.perf_counter() - started)

    best = max(service.device.call(loop) for _ in range(2))
    print(f"numbers: {rows / numbers_s:.1f} rows/s; forwards of {batch} alone: {best:.1f} rows/s")


def main() -> None:
    """Measure, keep, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("faithfulness.json"), help="File of what is measured.")
    parser.add_argument("--photographs", type=Path, help="Folder of further photographs.")
    parser.add_argument("--seconds", type=float, default=1e9, help="Begin nothing after so long.")
    parser.add_argument("--race", action="store_true", help="Twelve methods on one picture, and nothing else.")
    parser.add_argument("--table", action="store_true", help="Measure nothing.")
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    settings = Settings(tune=False)

    def keep() -> None:
        options.out.write_text(json.dumps(found))

    service = build(settings)
    try:
        service.store.start()
        service.store.wait()
        if options.race:
            race(service)
            return
        until = time.monotonic() + (0 if options.table else options.seconds)
        measure(service, found, until, options.photographs, keep)
        model = service.store.get(None)
        known = Verifier(service.device, settings).recalled(model)
    finally:
        close(service)
    print(table(found, known))


if __name__ == "__main__":
    main()

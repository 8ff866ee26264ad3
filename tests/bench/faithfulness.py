"""What the numbers of `/compare` say of all methods on the embedded network: `python -m tests.bench.faithfulness`.

Of each of forty crops of scikit-image's photographs (three of which are the package's), or of `--photographs DIR`: each
method's gain over random maps, whether it beats the bell in the middle of the picture, and what it costs; and once, its
sanity. All of that is kept in a file (`--out`) as it is found and gone on with, so that a run may be cut into several:
`--seconds` ends one, and whatever kills one costs a method of a crop. What tells most comes first. `--measured` has the
server find its fastest way in float32 first, in a few minutes, runtimes that are installed among them. `--write` puts
the table of what is there into the README, and measures nothing.
"""

import argparse
import io
import json
import re
import statistics
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import skimage.data
from PIL import Image

from service.answer import Needs
from service.app import build, close
from service.client import wire
from service.comparison.asking import Compare
from service.comparison.comparing import Comparing, plan
from service.comparison.numbers import HIDDEN
from service.contract import Facts
from service.engine.scheduler.run import Run
from service.errors import EngineUnavailable
from service.explainers.base import registry
from service.pipeline import applicability
from service.process import prepare_process
from service.sanity.cutting import cut
from service.sanity.verifier import STAGED, Verifier
from service.settings import Settings
from tests.bench.subject import EMBEDDED

ROOT = Path(__file__).parents[2]
CHEAP = 200  # passes of a map: dearer methods are tried on fewer crops
CROPS, FEW = 40, 8
AT_ONCE = 4  # methods of a comparison
NAMES = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle")  # of scikit-image, where they are files of it
PARTS = {
    "whole": (0, 0, 1, 1),
    "upper left": (0, 0, 0.7, 0.7),
    "lower right": (0.3, 0.3, 1, 1),
    "centre": (0.15, 0.15, 0.85, 0.85),
    "upper right": (0.3, 0, 1, 0.7),
    "lower left": (0, 0.3, 0.7, 1),
    "top": (0.15, 0, 0.85, 0.7),
    "bottom": (0.15, 0.3, 0.85, 1),
}


def _photograph(name: str) -> Image.Image:
    found = skimage.data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(skimage.data, name)()
    return Image.fromarray(found)


def crops(folder: Path | None) -> Iterator[tuple[str, bytes]]:
    """Yield crops with their names: all of each photograph, then one part after the other of each."""
    if folder is not None:
        photographs = [(path.stem, Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())]
    else:
        photographs = [(name, _photograph(name)) for name in NAMES]
    for part, edges in PARTS.items():
        for name, picture in photographs:
            w, h = picture.size
            box = tuple(round(edge * side) for edge, side in zip(edges, (w, h, w, h), strict=True))
            file = io.BytesIO()
            picture.crop(box).save(file, "PNG")
            yield f"{name}, {part}", file.getvalue()


@dataclass
class Results:
    """What is known so far; as JSON in a file."""

    file: Path

    def __post_init__(self) -> None:
        """Read what an earlier run found."""
        found = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.model: str | None = found.get("model")
        self.crops: dict[str, dict[str, Any]] = found.get("crops", {})
        self.sanity: dict[str, Any] = found.get("sanity", {})

    def of(self, version: str) -> None:
        """Forget what was found of another network."""
        if self.model not in (None, version):
            self.crops, self.sanity = {}, {}
        self.model = version

    def crop(self, name: str) -> dict[str, Any]:
        """Return a crop's results: the bell's gain, the reason why something is none, and each method's."""
        return self.crops.setdefault(name, {"bell": {}, "reason": None, "methods": {}})

    def keep(self) -> None:
        """Write what is known, all or nothing."""
        crops, sanity = (
            "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in part.items()) + "\n}"
            for part in (self.crops, self.sanity)
        )
        beside = self.file.with_suffix(".part")
        beside.write_text(
            f'{{"model": {json.dumps(self.model)}, "crops": {crops}, "sanity": {sanity}}}\n', encoding="utf-8"
        )
        beside.replace(self.file)


def steps(facts: Facts, pictures: Sequence[tuple[str, bytes]], results: Results) -> Iterator[tuple[str, bytes, Any]]:
    """Yield what is left to be compared, a crop and some methods at a time, what tells most first."""
    passes = {}
    for name, cls in registry().items():
        if applicability(facts)[name] is None and cls.needs_image and cls.takes_targets:
            passes[name] = cls().settled(facts).passes(facts, 1)
    cheap = [name for name in passes if passes[name] <= CHEAP]
    dear = sorted((name for name in passes if passes[name] > CHEAP), key=passes.__getitem__)
    few = len(NAMES)
    order = [
        *((one, cheap) for one in pictures[:few]),
        *((pictures[0], [name]) for name in dear),
        *((one, cheap) for one in pictures[few:]),
        *((one, [name]) for one in pictures[1:FEW] for name in dear),
    ]
    for (crop, png), names in order:
        left = [name for name in names if name not in results.crop(crop)["methods"]]
        for n in range(0, len(left), AT_ONCE):
            yield crop, png, left[n : n + AT_ONCE]


def measure(service: Any, results: Results, pictures: Sequence[tuple[str, bytes]], until: float) -> None:
    """Compare on one crop after the other, as far as the time goes."""
    facts = service.store.get(None).facts
    for crop, png, methods in steps(facts, pictures, results):
        if time.monotonic() > until:
            return
        asked = plan(service.pipeline, Compare.of({"methods": methods}, png))
        done = Comparing(service.pipeline, asked, Run()).work(Needs(None))
        found = results.crop(crop)
        if done.controls:
            bell = done.controls[0].bell.model_dump()
            found["bell"] = {name: bell[name] and round(bell[name], 4) for name in HIDDEN}
        for entry in done.entries:
            if entry.problem is not None or entry.cost is None:
                raise RuntimeError(f"{entry.method} on {crop}: {entry.problem}")
            gain = entry.faithfulness[0].gain
            numbers = [(value := getattr(gain, name)) and round(value, 4) for name in HIDDEN]
            found["methods"][entry.method] = [*numbers, entry.cost.forwards + 2 * entry.cost.backwards]
            found["reason"] = found["reason"] or gain.reason
        results.keep()
        print(f"{time.strftime('%H:%M:%S')} {crop}: {', '.join(methods)}", flush=True)


class Kept(Verifier):
    """A verifier that keeps its verdicts in the results."""

    results: Results

    def recalled(self, model: Any) -> dict[str, wire.Sanity]:
        return {name: wire.Sanity.model_validate(one) for name, one in self.results.sanity.items()}

    def _remember(self, model: Any, known: Mapping[str, wire.Sanity]) -> None:
        self.results.sanity = {name: one.model_dump() for name, one in known.items()}
        self.results.keep()
        passes = sum(one.passes for one in known.values())
        print(f"{time.strftime('%H:%M:%S')} sanity: {len(known)} methods, {passes} passes", flush=True)


def verify(service: Any, results: Results, until: float) -> None:
    """Test every method, as far as the time goes: some at a time, so that an end loses little."""
    facts, closing = service.store.get(None).facts, threading.Event()
    passes = {}
    for name, reason in applicability(facts).items():
        passes[name] = cut(registry()[name]().settled(facts), facts)[2] if reason is None else 0
    cheap = sorted((name for name in passes if passes[name] <= STAGED), key=passes.__getitem__)
    verifier = Kept(service.device, service.settings)
    verifier.results = results
    timer = threading.Timer(max(until - time.monotonic(), 0), closing.set)
    timer.daemon = True
    timer.start()
    with suppress(EngineUnavailable):  # the time is up
        for n in range(0, len(cheap), AT_ONCE):
            verifier.verify(service.store.entry(None).spec, service.store.get(None), closing, cheap[n : n + AT_ONCE])
        verifier.verify(service.store.entry(None).spec, service.store.get(None), closing)
    timer.cancel()


HEAD = (
    "| Method | Gain: blur | Gain: mean colour | Beats the bell | n | Sanity | `mprt` | `random_logit` | Passes |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def table(results: Results) -> str:
    """Return the table: medians over crops that say something, n in each row; and what is not in it."""
    tried = {name for crop in results.crops.values() for name in crop["methods"]}
    tested = {name for name, one in results.sanity.items() if one["verdict"] != "not yet tested"}
    crops = [crop for crop in results.crops.values() if crop["methods"]]
    bells = [[crop["bell"][name] for crop in crops if crop["bell"].get(name) is not None] for name in HIDDEN]
    bell = ("*a bell in the middle*", *map(_median, bells), "-", str(max(map(len, bells))), "-", "-", "-", "0")
    lines = [HEAD, f"| {' | '.join(bell)} |", *(_line(name, results) for name in sorted(tried | tested))]
    silent = sum(not any(value is not None for value in crop["bell"].values()) for crop in crops)
    said = f"{len(crops)} crops; on {silent} of them hiding the whole picture says too little for any gain."
    if rest := sorted(registry().keys() - tried - tested):
        said += f" Not in the table, as they do not apply or are not yet measured: {', '.join(rest)}."
    return "\n".join([*lines, "", *textwrap.wrap(said, 140, break_on_hyphens=False)])


def _line(method: str, results: Results) -> str:
    tried = [crop for crop in results.crops.values() if method in crop["methods"]]
    own = [dict(zip((*HIDDEN, "passes"), crop["methods"][method], strict=True)) for crop in tried]
    cells = []
    for name in HIDDEN:
        cells.append(_median([one[name] for one in own if one[name] is not None]))
    wins = [
        one[name] > crop["bell"][name]
        for one, crop in zip(own, tried, strict=True)
        for name in HIDDEN
        if one[name] is not None and crop["bell"].get(name) is not None
    ]
    cells.append(f"{100 * sum(wins) / len(wins):.0f} %" if wins else "-")
    cells.append(str(sum(any(one[name] is not None for name in HIDDEN) for one in own) or "-"))
    sanity = wire.Sanity.model_validate(results.sanity.get(method, {"verdict": "not yet tested"}))
    cells.append(sanity.verdict + " (cut)" * bool(sanity.cut))
    cells += ["-" if one is None else f"{one:.2f}" for one in (sanity.mprt, sanity.random_logit)]
    passes = [one["passes"] for one in own]
    cells.append(f"{round(statistics.median(passes)):,}" if passes else "-")
    return f"| {' | '.join([f'`{method}`', *cells])} |"


def _median(gains: Sequence[float]) -> str:
    return f"{statistics.median(gains):+.1f}" if gains else "-"


def write(results: Results, readme: Path) -> None:
    """Put the table between its marks."""
    text = readme.read_text("utf-8")
    marks = re.compile(r"(<!-- faithfulness -->\n).*?(<!-- /faithfulness -->)", re.DOTALL)
    changed, n = marks.subn(lambda found: f"{found[1]}{table(results)}\n{found[2]}", text)
    assert n == 1, f"{readme} has not one place for the table"
    readme.write_text(changed, "utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, keep, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.faithfulness", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/bench/faithfulness.json", help="what is measured")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="other photographs")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin nothing after so long")
    parser.add_argument("--only", choices=("gain", "sanity"), help="one of both")
    parser.add_argument("--measured", action="store_true", help="measure the network's variants first")
    parser.add_argument("--write", action="store_true", help="write the table into the README, and measure nothing")
    options = parser.parse_args(arguments)
    results = Results(options.out)
    if options.write:
        write(results, ROOT / "README.md")
        return
    prepare_process()
    until = time.monotonic() + options.seconds
    service = build(Settings(model=(EMBEDDED,), tune=options.measured, precision="fp32", verify=False))
    try:
        service.store.start()
        service.store.wait()
        if options.measured and (slow := service.store.join(1200)):
            raise TimeoutError(f"{', '.join(slow)} went on for twenty minutes")
        results.of(service.store.get(None).version)
        work: dict[str, Callable[[], None]] = {
            "gain": lambda: measure(service, results, list(crops(options.photographs))[:CROPS], until),
            "sanity": lambda: verify(service, results, until),
        }
        for name in [options.only] if options.only else work:
            work[name]()
    finally:
        close(service)
    print(table(results))


if __name__ == "__main__":
    main()

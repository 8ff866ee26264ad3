"""`POST /compare` of twelve methods on one picture: its rows against the machine's and Quantus's, its time, its news.

The numbers' rows a second are held against the best plain loop in the same run, the forwards that all of it takes
against those that Quantus takes for the same points of the same curves (where it is installed: `pip install quantus`;
nothing else needs it). The same is asked again, and once more with events, which tell how far it is.
"""

import importlib.util
import itertools
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from torch import Tensor, nn

from service.comparison.numbers import A_MAP, CONTROLS, ENDS, HIDDEN
from service.faithfulness.controls import RANDOMS
from service.faithfulness.curves import STEPS
from service.pipeline import applicability
from tests.bench.ceiling import Ceiling
from tests.bench.measure import Options, Row
from tests.bench.server import serving
from tests.bench.subject import Subject, ours, pictures
from tests.bench.wire import LEAN

RACED = (
    *("cam", "grad-cam", "grad-cam++", "layer-cam", "finer-cam", "eigen-grad-cam", "saliency", "gradient-x-input"),
    *("deep-lift", "guided-backprop", "lrp", "full-grad", "excitation-backprop", "hires-cam"),
)
METHODS = 12


def run(options: Options, folder: Path) -> Iterator[Row]:
    """Measure comparisons over HTTP."""
    subject, device = Subject(options.model, folder), options.device
    with ours(subject, device, tune=False) as service:
        fit = [name for name in RACED if applicability(service.facts)[name] is None][: options.pick(3, METHODS)]
    ceiling = Ceiling(options, subject, (32, 16), "float32")
    span = options.pick(16, 128)
    asked: list[dict[str, Any]] = []
    rates, shares = [], []
    with serving("ours", subject, device) as server, server.client() as client:
        limits = [ceiling.measure(span)]
        for picture in pictures(options.rounds):
            found = ask(client, picture, fit)
            limits.append(ceiling.measure(span))
            rates.append(found["rows"] / found["numbers_s"])
            shares.append(rates[-1] / statistics.mean(limits[-2:]))
            asked.append(found)
        again = ask(client, picture, fit)
        gaps = told(client, pictures(1)[0], fit)
    what = f"{len(fit)} methods, {subject.name}"
    yield Row(
        "compare",
        f"{what}: rows of the numbers",
        statistics.median(rates),
        "rows/s",
        f"ceiling {ceiling.best}",
        statistics.median(limits),
        statistics.median(shares),
        aim="0.9x",
        rounds={"ours": rates, "ceiling": limits},
        facts={"ceiling": ceiling.tried | ceiling.beside, "asked": asked},
    )
    rows, bound = asked[-1]["rows"], ENDS + CONTROLS + A_MAP * len(fit)
    theirs = quantus(len(fit) + RANDOMS + 1) if importlib.util.find_spec("quantus") else None
    yield Row(
        "compare",
        f"{what}: forwards of the numbers (bound {bound})",
        rows,
        "forwards",
        "Quantus" if theirs else "Quantus is not installed",
        theirs,
        theirs / rows if theirs else None,
        aim="2x",
        failed=f"{rows} are more than {bound}" if rows > bound else None,
    )
    for name, one in (("first", asked[-1]), ("asked again", again)):
        yield Row(
            "compare",
            f"{what}, {name}: {one['rows']} rows of numbers and {one['own']} forwards of the methods'",
            one["seconds"],
            "s",
            failed=f"{one['rows']} rows" if name == "asked again" and one["rows"] else None,
            facts=one,
        )
    yield Row(
        "compare", f"{what}: longest time without news, {len(gaps)} events", max(gaps), "s", rounds={"ours": gaps}
    )


def ask(client: httpx.Client, picture: bytes, methods: Sequence[str]) -> dict[str, Any]:
    """Compare, and return rows and seconds of the numbers, the methods' own forwards, and the seconds of all of it."""
    fields = {"methods": list(methods), "output": LEAN, "timeout_s": 1800}
    files = {"image": ("p.jpg", picture, "image/jpeg"), "request": (None, json.dumps(fields), "application/json")}
    started = time.perf_counter()
    response = client.post("/compare", files=files)
    seconds = time.perf_counter() - started
    response.raise_for_status()
    answer = response.json()
    costs = [one["cost"] for one in answer["methods"]]
    own = 1 + sum(cost["forwards"] for cost in costs)  # what the network says of the picture is a row, too
    return {
        "rows": answer["usage"]["forwards"] - own,
        "own": own,
        "numbers_s": seconds - sum(cost["seconds"] for cost in costs),  # all but the methods themselves
        "seconds": seconds,
        "usage": answer["usage"],
    }


def told(client: httpx.Client, picture: bytes, methods: Sequence[str]) -> list[float]:
    """Return the seconds between two news of a comparison, and before the first and after the last."""
    fields = {"methods": list(methods), "output": LEAN, "timeout_s": 1800}
    files = {"image": ("p.jpg", picture, "image/jpeg"), "request": (None, json.dumps(fields), "application/json")}
    at = [time.perf_counter()]
    with client.stream("POST", "/compare", files=files, headers={"Accept": "text/event-stream"}) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("event:"):
                at.append(time.perf_counter())
                if line.endswith("error"):
                    raise RuntimeError("the comparison failed")
    return [b - a for a, b in itertools.pairwise(at)]


def quantus(maps: int, side: int = 32) -> int:
    """Return how many forwards Quantus takes for deletion and insertion of maps at our points.

    Its pixel flipping is deletion, and insertion with the order turned over. It hides a colour at a time, and takes
    steps that divide a picture's pixels only: of those that meet our points, the longest are thirds of ours.
    """
    import numpy as np
    from quantus import PixelFlipping

    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * side**2, 2)).eval()
    forwards = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal forwards
        forwards += len(inputs[0])

    network.register_forward_pre_hook(count)
    random = np.random.default_rng(0)
    x = np.repeat(random.random((1, 3, side, side), dtype=np.float32), maps, 0)
    a = random.random((maps, 1, side, side), dtype=np.float32)
    for baseline in (0.0, 0.5)[: len(HIDDEN)]:
        for order in (a, 1 - a):
            flipping = PixelFlipping(
                features_in_step=side**2 // STEPS, perturb_baseline=baseline, disable_warnings=True, abs=False
            )
            y = np.zeros(maps, int)
            flipping(model=network, x_batch=x, y_batch=y, a_batch=order, softmax=False, device="cpu")
    return forwards

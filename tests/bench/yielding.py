"""How long a request waits while methods are tested in the background: at most for the batch that is under way.

One row at a time is asked for, as `/predict` does, while the sanity job has the device: each wait, less what the row
takes alone, is held against the longest batch of the job.
"""

import random
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.contract import Rows
from service.engine.probe import ModelProbe
from service.engine.scheduler.run import Run
from service.errors import EngineUnavailable
from service.sanity.verifier import Verifier
from tests.bench.measure import Options, Row
from tests.bench.subject import Subject, ours

# Of each kind of work one: traces, rows, rows from a layer on, boxes.
KINDS = ("saliency", "integrated-gradients", "group-cam", "ablation-cam", "occlusion", "lrp", "score-cam")


def run(options: Options, folder: Path) -> Iterator[Row]:
    """Ask while the job is under way."""
    subject = Subject(options.model, folder)
    with ours(subject, options.device, tune=False) as service:
        device, entry = service.context.device, service.context.store.entry(None)
        batches: list[float] = []
        alone = [_wait(entry.model, device) for _ in range(options.pick(5, 20))][1:]
        device._observe = lambda kind, network, precision, rows, seconds, fill: batches.append(seconds)
        closing = threading.Event()

        def verify() -> None:
            with suppress(EngineUnavailable):  # closed
                Verifier(device, service.context.settings).verify(entry.spec, entry.model, closing, KINDS)

        job = threading.Thread(target=verify)
        job.start()
        waits, dice, until = [], random.Random(0), time.monotonic() + options.pick(2, 60)
        try:
            while job.is_alive() and time.monotonic() < until:
                time.sleep(dice.uniform(0.02, 0.2))
                waits.append(_wait(entry.model, device))
        finally:
            closing.set()
            job.join()
    rest, longest = statistics.median(alone), max(batches)
    for name, share in (("p50", 0.5), ("p99", 0.99), ("largest", 1.0)):
        value = sorted(waits)[min(len(waits) - 1, int(share * len(waits)))]
        yield Row(
            "yielding",
            f"a row beside the sanity job, {name} of {len(waits)}, less {rest * 1e3:.0f} ms that it takes alone",
            (value - rest) * 1e3,
            "ms",
            "the job's longest batch",
            longest * 1e3,
            (value - rest) / longest,
            aim="under 1 batch" if name == "p99" else "",
            rounds={"ours": [one * 1e3 for one in waits], "alone": [one * 1e3 for one in alone]},
            facts={"batches": len(batches)},
        )


def _wait(model: Any, device: Any) -> float:
    """Return the seconds until a row of its own is answered."""
    started = time.perf_counter()
    ModelProbe(model, device, Run()).scores(Rows.of(model.example()[:1]))
    return time.perf_counter() - started

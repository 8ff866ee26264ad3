"""What a Score-CAM of 2,048 channels adds to the server's memory, and what an idle server costs."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.bench.measure import Options, Row
from tests.bench.server import serving
from tests.bench.subject import Subject, pictures
from tests.bench.wire import explain


class Peak:
    """Samples a process's resident memory every 10 ms within the block."""

    def __init__(self, process: psutil.Process) -> None:
        self.process = process
        self.samples: list[int] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while not self._end.wait(0.01):
            self.samples.append(self.process.memory_info().rss)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def run(options: Options, folder: Path) -> Iterator[Row]:
    """Start a fresh server, let it rest, and ask for one explanation."""
    subject = Subject(options.pick("wide", "resnet50"), folder)
    with serving("ours", subject, options.device) as server, server.client() as client:
        process = psutil.Process(server.process.pid)
        client.get("/health/live").raise_for_status()
        before, started = process.cpu_times(), time.monotonic()
        time.sleep(options.pick(2, 10))
        after, seconds = process.cpu_times(), time.monotonic() - started
        share = (after.user + after.system - before.user - before.system) / seconds
        yield Row("memory", "idle server, share of one core", share * 100, "%", aim="under 1 %")
        resting = process.memory_info().rss
        with Peak(process) as peak:
            answer = explain(client, "score-cam", pictures(1)[0])
        channels = answer["details"]["channels"]
        row = Row(
            "memory",
            f"score-cam of {channels} channels, {subject.name}: peak over the resting server",
            (max(peak.samples) - resting) / 2**20,
            "MiB",
            aim="300 MB",
            facts={"resting_bytes": resting, "usage": answer["usage"]},
        )
        row.rounds = {"resident MiB": [sample / 2**20 for sample in peak.samples[:: max(1, len(peak.samples) // 500)]]}
        yield row

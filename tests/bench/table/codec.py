"""What a request keeps to itself of a process: Python's lock, with and without processes that decode and draw."""

import contextlib
import re
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
from torch import nn

from tests.bench.served import Served
from tests.bench.subject import pictures
from tests.bench.table.line import Asked, Line

NAMES = {"/predict": 1.2, "/explain/grad-cam": 2.0}  # the most milliseconds under the lock
CLIENTS = 4
_RATE = 200  # samples a second


def nothing() -> nn.Module:
    """Return a network that costs next to nothing, with maps of 7 x 7 of a picture of 224."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 32, 32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
        return nn.Sequential(*layers).eval()


def _server(asked: Asked, processes: int) -> Served:
    catalog = asked.folder / "nothing.toml"
    catalog.write_text('[models.nothing]\nfactory = "tests.bench.table.codec:nothing"\ninput_size = 224\n')
    variables = {"CATALOG": str(catalog), "TUNE": "false", "CODEC_PROCESSES": str(processes), "SCORE_CACHE_MIB": "0"}
    return Served(
        asked.folder / f"codec-{processes}",
        ["nothing"],
        environment={f"HEATLENS_{name}": value for name, value in variables.items()} | {"OMP_NUM_THREADS": "1"},
    )


class Load:
    """Some clients that ask one thing over and over, as long as the block lasts."""

    def __init__(self, server: Served, path: str, sent: list[bytes]) -> None:
        self.done, self.failed = 0, [0]
        self._server, self._path, self._sent, self._over = server, path, sent, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(CLIENTS)]

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self._server.url, timeout=120) as client:
            while not self._over.is_set():
                image = self._sent[(self.done + number) % len(self._sent)]
                answer = client.post(self._path, files={"image": ("picture.jpg", image, "image/jpeg")})
                self.done += 1
                self.failed[0] += answer.status_code != 200

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def _processor_s(server: Served) -> tuple[float, float]:
    """Return the processor time of the server's own process, and of those that it has started."""
    children = 0.0
    for child in server.counted.children():
        with contextlib.suppress(psutil.Error):
            times = child.cpu_times()
            children += times.user + times.system
    return server.processor_s(), children


def _measured(asked: Asked, server: Served, path: str, seconds: float) -> dict[str, float]:
    """Return milliseconds a request: of the server's own process, of the others, and under Python's lock."""
    sent = pictures(16)
    with Load(server, path, sent) as load:
        while load.done < 20:  # warm
            time.sleep(0.1)
        before, count, began = _processor_s(server), load.done, time.monotonic()
        samples = _locked(server.process.pid, seconds, asked.folder / "samples")
        if samples is None:
            time.sleep(seconds)
        took, asked_for, after = time.monotonic() - began, load.done - count, _processor_s(server)
    found = {"own": (after[0] - before[0]) / asked_for * 1e3, "others": (after[1] - before[1]) / asked_for * 1e3}
    if samples is not None:
        found["lock"] = samples * took / asked_for * 1e3
    if load.failed[0]:
        raise RuntimeError(f"{load.failed[0]} requests of {load.done} failed")
    return found


def _locked(pid: int, seconds: float, file: Path) -> float | None:
    """Return the share of moments in which a process's lock is held; None without py-spy.

    It is an upper bound: a thread that has to give its core away while it holds the lock counts, too, so that a machine
    which is busy with other things shows several times more.
    """
    spy = shutil.which("py-spy")
    if spy is None:
        return None
    options = ["--gil", "--format", "raw", "--rate", str(_RATE), "--duration", str(round(seconds)), "--nonblocking"]
    command = [spy, "record", "--pid", str(pid), "--output", str(file), *options]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"py-spy: {found.stderr.strip()}")
    held = sum(int(count) for count in re.findall(r" (\d+)$", file.read_text(), re.MULTILINE))
    return held / (_RATE * round(seconds))


def lock(asked: Asked) -> Iterator[Line]:
    """Python's lock a request, before and with two codec processes; and what is left of it by processor time."""
    seconds = 3.0 if asked.quick else 20.0
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    for _ in range(asked.rounds):
        for processes in (0, 2):
            with _server(asked, processes) as server:
                for path in NAMES:
                    found.setdefault((processes, path), []).append(_measured(asked, server, path, seconds))
    for path, most in NAMES.items():
        before, after = found[0, path], found[2, path]
        for key, what, aim in (
            ("lock", "under Python's lock (py-spy)", most),
            ("own", "processor time of the server's own process", None),
        ):
            if key not in after[0]:
                continue

            def middle(rounds: list[dict[str, float]], key: str = key) -> str:
                return f"{statistics.median(one[key] for one in rounds):.2f} ms"

            yield Line(
                f"{path}, {what}, 2 codec processes",
                f"{middle(after)}; codec processes {middle(after, 'others')}",
                f"none: {middle(before)}",
                [one[key] for one in after],
                (),
                aim,
                "ms",
                least=False,
                facts={"before": before, "after": after},
            )
    if shutil.which("py-spy") is None:
        raise RuntimeError("the lock is seen by py-spy, which is not on the PATH: pip install py-spy")


def same(asked: Asked) -> Iterator[Line]:
    """Pictures of answers with and without codec processes, byte by byte; beside `kill -9` of one every second."""
    sent, answers = pictures(4 if asked.quick else 24), []
    for processes in (0, 2):
        with _server(asked, processes) as server:
            found = [server.explain("grad-cam", image)[0]["maps"][0] for image in sent]
            answers.append([(one["heatmap"], one["overlay"]) for one in found])
    equal = sum(one == other for one, other in zip(*answers, strict=True))
    yield Line(
        "grad-cam, answers whose pictures are the same bytes, 2 codec processes",
        f"{equal} of {len(sent)}",
        "none",
        [equal / len(sent)],
        (),
        1.0,
    )
    with _server(asked, 2) as server, Load(server, "/explain/grad-cam", sent) as load:
        killed = 0
        for _ in range(3 if asked.quick else 15):
            time.sleep(1.0)
            for child in server.counted.children()[:1]:
                child.kill()
                killed += 1
        done, failed = load.done, load.failed[0]
        lost = _counted(server)
        children = server.counted.children()
    _, alive = psutil.wait_procs(children, 30)
    yield Line(
        f"kill -9 of a codec process, {killed} times beside {CLIENTS} clients: requests that failed",
        f"{failed} of {done}; ended in the middle of work: {lost}",
        f"processes left at the end: {len(alive)}",
        [float(failed + len(alive))],
        (),
        0.0,
        "",
        least=False,
    )


def _counted(server: Served) -> Any:
    text = server.client.get("/metrics").text
    return {why: float(number) for why, number in re.findall(r'heatlens_codec_ends_total\{why="(\w+)"\} (\S+)', text)}

"""A server as its users start it, in a process of its own, and the processor time that it takes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parents[2]


class Served:
    """A server of a work tree: `heatlens serve`, with what it writes in a folder."""

    def __init__(
        self,
        folder: Path,
        models: Sequence[str] = (),
        *,
        root: Path = ROOT,
        environment: Mapping[str, str] | None = None,
        ready: str = "/health/ready",
    ) -> None:
        """Start it, and wait until it is ready.

        Args:
            folder: of its cache.
            models: what `--model` takes; none: what it serves by itself.
            root: the work tree.
            environment: further variables.
            ready: what is asked until it answers.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        variables = os.environ | {
            "HEATLENS_CACHE_DIR": str(folder),
            "HEATLENS_VERIFY": "false",  # older versions take it for a mistake, and go on
            **(environment or {}),
        }
        options = [word for model in models for word in ("--model", model)]
        command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--log-level", "error", *options]
        self.folder = folder
        began = time.monotonic()
        self.process = subprocess.Popen(command, cwd=root, env=variables, stderr=subprocess.DEVNULL)
        self.counted = psutil.Process(self.process.pid)
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=1800)
        self.until(self._listens, 0.05)  # which costs the server nothing, unlike a request
        self.until(lambda: self.client.get(ready).status_code == 200, 0.1)
        self.ready_s, self.ready_processor_s = time.monotonic() - began, self.processor_s()

    def _listens(self) -> bool:
        with socket.socket() as there:
            return there.connect_ex(("127.0.0.1", int(self.url.rpartition(":")[2]))) == 0

    def until(self, true: Callable[[], bool], every_s: float = 0.2, seconds: float = 1800) -> float:
        """Wait until something is true; return how long that took.

        Raises:
            RuntimeError: it did not become true, or the server has ended.
        """
        began = time.monotonic()
        while (took := time.monotonic() - began) < seconds and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if true():
                    return took
            time.sleep(every_s)
        raise RuntimeError(f"the server ended with {self.process.poll()}, or was not so within {seconds:.0f} s")

    def processor_s(self) -> float:
        """Return the processor time of all its threads so far."""
        times = self.counted.cpu_times()
        return float(times.user + times.system)

    def tuning(self, model: str | None = None) -> dict[str, Any] | None:
        """Return what it has measured of a model, by default of the first one; None: it is not done yet."""
        name = model or self.client.get("/models").json()["models"][0]["name"]
        found: dict[str, Any] | None = self.client.get(f"/models/{name}").json()["tuning"]
        return found

    def settled(self, seconds: float = 1800) -> float:
        """Wait until its first model is measured and what was found is kept; return how long that took."""
        return self.until(lambda: any(self.folder.glob("measured-*.json")), 0.2, seconds)

    def explain(self, method: str, image: bytes, **fields: Any) -> tuple[dict[str, Any], float, float]:
        """Ask for one explanation; return the answer, and the seconds of the clock and of the server's processor."""
        form = {"request": json.dumps(fields)}
        before, began = self.processor_s(), time.perf_counter()
        response = self.client.post(f"/explain/{method}", data=form, files={"image": ("picture.jpg", image)})
        took = time.perf_counter() - began
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer, took, self.processor_s() - before

    def close(self) -> None:
        """Stop it."""
        self.client.close()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
            return
        self.process.send_signal(signal.SIGTERM)  # the second one ends it, whatever hangs
        self.process.wait(30)

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

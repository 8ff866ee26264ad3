"""What all load tools send, and the server they may start."""

import base64
import io
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from service.client import Client, HeatlensError

ROOT = Path(__file__).parents[2]
SIZES = {"small": (160, 120), "medium": (640, 480), "large": (2000, 1500)}
LEAN = {"heatmap": False, "array": "base64"}


@dataclass(frozen=True)
class Kind:
    """One way to use the service."""

    path: str
    fields: dict[str, Any] = field(default_factory=dict)


KINDS = {
    "predict": Kind("/predict"),
    "grad-cam": Kind("/explain/grad-cam", {"output": LEAN}),
    "saliency": Kind("/explain/saliency", {"output": LEAN}),
    "feature-maps": Kind("/explain/feature-maps", {"output": LEAN}),
    "deconvnet": Kind("/explain/deconvnet", {"output": LEAN}),
    "occlusion": Kind("/explain/occlusion", {"output": LEAN, "params": {"window": 64, "stride": 48}}),
    "score-cam": Kind("/explain/score-cam", {"output": LEAN}),
}
MIXES: dict[str, dict[str, int]] = {
    "predict": {"predict": 1},
    "cheap": {"predict": 6, "grad-cam": 3, "saliency": 1},
    "mixed": {"predict": 20, "grad-cam": 8, "saliency": 3, "feature-maps": 1, "occlusion": 2},
    "expensive": {"occlusion": 3, "score-cam": 1},
    "all": dict.fromkeys(KINDS, 1),
}


def picture(size: str, number: int = 0) -> bytes:
    """Return a JPEG: smooth colours and noise, another one for each number."""
    width, height = SIZES[size]
    noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


@cache
def pictures(count: int = 8) -> list[bytes]:
    """Return pictures of several sizes, most of them of medium size."""
    sizes = ("medium", "small", "medium", "large")
    return [picture(sizes[i % len(sizes)], i) for i in range(count)]


def body(image: bytes, fields: dict[str, Any], *, multipart: bool) -> tuple[bytes, str]:
    """Return a request's body and content type."""
    if not multipart:
        return json.dumps(fields | {"image": base64.b64encode(image).decode()}).encode(), "application/json"
    part = b'--heat\r\nContent-Disposition: form-data; name="%s"%s\r\nContent-Type: %s\r\n\r\n%s\r\n'
    parts = part % (b"request", b"", b"application/json", json.dumps(fields).encode())
    parts += part % (b"image", b'; filename="a.jpg"', b"image/jpeg", image)
    return parts + b"--heat--\r\n", "multipart/form-data; boundary=heat"


def draw(mix: str, rng: random.Random) -> tuple[str, Kind, bytes, bool]:
    """Return a random request of a mix: its name, kind, picture, and whether it is multipart."""
    weights = MIXES[mix]
    name = rng.choices(list(weights), list(weights.values()))[0]
    return name, KINDS[name], rng.choice(pictures()), rng.random() < 0.5


def headers(content_type: str) -> dict[str, str]:
    """Return a request's headers; HEATLENS_LOAD_KEY is the bearer key, where one is needed."""
    key = os.environ.get("HEATLENS_LOAD_KEY")
    return {"content-type": content_type} | ({"authorization": f"Bearer {key}"} if key else {})


@dataclass
class Server:
    """A server in a process of its own."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        """Return its process's number."""
        return self.process.pid

    @property
    def complaints(self) -> list[str]:
        """Return what it has logged at level error or above."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if '"level":"error"' in line or '"level":"critical"' in line]


@contextmanager
def serving(
    *arguments: str, port: int = 0, program: Sequence[str] = ("-m", "service"), **environment: str
) -> Iterator[Server]:
    """Run `heatlens serve` on a port (0: a free one) until the block ends; ready to answer."""
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    log = Path(tempfile.mkstemp(prefix="heatlens-")[1])
    command = [sys.executable, *program, "serve", "--port", str(port), "--log-level", "warning"]
    command += ["--log-format", "json", *arguments]
    # A key is for those who ask; the server would take its name for that of a setting, misspelt.
    own = {name: value for name, value in os.environ.items() if name != "HEATLENS_LOAD_KEY"}
    with log.open("w") as file:
        # A server that is measured does nothing beside.
        env = {"HEATLENS_VERIFY": "false"} | own | environment
        process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=file)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_ready(url, process)
        yield Server(url, process, log)
    finally:
        process.terminate()
        process.wait(60)
        log.unlink()


def wait_ready(url: str, process: "subprocess.Popen[bytes] | None" = None, patience_s: float = 180) -> None:
    """Wait until all models of a server are ready."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until and (process is None or process.poll() is None):
        try:
            if httpx.get(f"{url}/health/ready?model=*", timeout=10).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the server at {url} does not get ready")


def wait_tuned(url: str, patience_s: float = 600) -> None:
    """Wait until a server has measured its models: while it does it is slower than it will be."""
    sent, until = headers("application/json"), time.monotonic() + patience_s
    names = [model["name"] for model in httpx.get(f"{url}/models", headers=sent).json()["models"]]
    while time.monotonic() < until:
        if all(httpx.get(f"{url}/models/{name}", headers=sent, timeout=60).json()["tuning"] for name in names):
            return
        time.sleep(1)


def metrics(text: str) -> dict[str, float]:
    """Return the samples of /metrics."""
    samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def meanwhile(
    address: str,
    plainly: Callable[[httpx.Client, int], object],
    by_client: Callable[[Client, int], object],
    happen: Callable[[], object],
    *,
    threads: int,
    seconds: float,
    after_s: float,
) -> tuple[int, list[str]]:
    """Ask from threads for a while, and let something happen meanwhile; return what came of our own client's half.

    Args:
        address: of the server.
        plainly: asks by a request as anybody sends it, and notes what comes of it; told the thread's number.
        by_client: asks by our client.
        happen: what happens.
        threads: every other one asks by our client.
        seconds: how long they ask.
        after_s: when it happens.

    Returns:
        How many of our client's questions were answered, and the errors of the others.
    """
    answers, errors, until = [0], list[str](), time.monotonic() + seconds

    def plain(i: int) -> None:
        with httpx.Client(base_url=address, timeout=120) as client:
            while time.monotonic() < until:
                plainly(client, i)

    def through(i: int) -> None:
        with Client(address) as client:
            while time.monotonic() < until:
                try:
                    by_client(client, i)
                    answers[0] += 1
                except HeatlensError as error:
                    errors.append(str(error))

    asking = [threading.Thread(target=plain if i % 2 else through, args=(i,)) for i in range(threads)]
    for thread in asking:
        thread.start()
    time.sleep(after_s)
    happen()
    for thread in asking:
        thread.join()
    return answers[0], errors

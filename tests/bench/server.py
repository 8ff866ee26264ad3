"""Servers in processes of their own: ours, and the plain handler that people write around a library today."""

import base64
import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image

from service.app import create_app
from service.images import decode, prepare, to_input
from service.process import prepare_process
from tests.bench import peers
from tests.bench.subject import Subject, settle

ROOT = Path(__file__).parents[2]


def plain_app(
    subject: Subject, device: torch.device, layer: str, methods: list[str], window: int = 32, stride: int = 16
) -> FastAPI:
    """Return a service of the usual kind: one handler a library, which decodes, locks, explains and draws."""
    app = FastAPI()
    lock = threading.Lock()
    transform = subject.spec.transform
    contestants = {name: peers.plain_method(name, subject.plain(device), layer, window, stride) for name in methods}

    @app.post("/explain/{library}/{method}")
    def explain(library: str, method: str, image: Annotated[UploadFile, "a picture"]) -> dict[str, Any]:
        seen = prepare(decode(image.file.read(), max_bytes=2**24, max_pixels=2**24), transform).seen
        x = to_input(seen, transform).to(device)
        with lock:
            heat = contestants[f"{library} {method}"](x).cpu().numpy()
        unit = (heat - heat.min()) / (np.ptp(heat) + 1e-8)
        large = Image.fromarray((unit * 255).astype(np.uint8)).resize(seen.size)
        buffer = io.BytesIO()
        Image.blend(seen, large.convert("RGB"), 0.5).save(buffer, "PNG", compress_level=1)
        return {"overlay": base64.b64encode(buffer.getvalue()).decode(), "heatmap": heat.tolist()}

    return app


class Server:
    """A server in a child process, seen from here."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url

    def client(self) -> httpx.Client:
        """Return a client that keeps its connections."""
        return httpx.Client(base_url=self.url, timeout=900)


@contextmanager
def serving(kind: str, subject: Subject, device: torch.device, **options: Any) -> Iterator[Server]:
    """Run `ours` (options: settings) or `plain` (layer, methods) in a child process, ready to answer."""
    asked = {"kind": kind, "name": subject.name, "folder": str(subject.folder), "device": str(device)}
    asked["options"] = options
    command = [sys.executable, "-m", "tests.bench.server", json.dumps(asked)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {kind} server ended with status {process.wait()}")
        yield Server(process, line.strip())
    finally:
        process.terminate()
        process.wait(30)


class _Announcing(uvicorn.Server):
    """Prints its address once it answers."""

    address = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        threading.Thread(target=self._announce, daemon=True).start()

    def _announce(self) -> None:
        context = getattr(self.config.app.state, "context", None)  # type: ignore[union-attr]
        if context is not None:
            settle(context)
        print(self.address, flush=True)


def _child(asked: dict[str, Any]) -> None:
    subject, device = Subject(asked["name"], Path(asked["folder"])), torch.device(asked["device"])
    if asked["kind"] == "ours":
        prepare_process()  # as our command does; the plain handler runs as people write it
        app = create_app(subject.settings(device, **asked["options"]))
    else:
        app = plain_app(subject, device, **asked["options"])
    server = _Announcing(uvicorn.Config(app, log_level="warning", access_log=False))
    # With its protocol named, asyncio turns Nagle's algorithm off, as it does for uvicorn's own sockets; else every
    # answer waits 40 ms for an acknowledgement.
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        server.address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.run([listening])


if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))

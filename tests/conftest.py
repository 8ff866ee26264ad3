"""A service on small networks, one on the embedded ones, and real photographs."""

import gc
import io
import logging
import os
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import skimage.data
import torch
from fastapi import FastAPI
from hypothesis import settings
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from PIL import Image

from service import spans
from service.api.context import Context
from service.app import build, close, create_app
from service.engine.scheduler.device import Device
from service.process import ALL_THREADS, use_threads
from service.server.server import Server
from service.settings import Settings

# Tests find what they find, whatever was measured on this machine before.
os.environ |= {"HEATLENS_TUNE": "false", "HEATLENS_CACHE_DIR": "/nonexistent"}
# And in one process, however many cores there are, but for tests of the others.
os.environ["HEATLENS_CODEC_PROCESSES"] = "0"
CATALOG = Path(__file__).parent / "catalog.toml"
# What is found must not depend on how busy a machine is, nor on dice: new examples are what `tests.fuzz` looks for.
settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    """Let workers side by side, which inherit this, share the cores: each has one, and so have its servers."""
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # pytest attaches itself, six times a test, to every logger that does not propagate: PyTorch has dozens.
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.name.startswith("torch"):
            logger.propagate = True


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave the thousands of tests out of what the garbage collector searches, while they are found and later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Leave what a file of tests has imported and what lasts for all of them out of later searches for garbage, too."""
    try:
        return (yield)
    finally:
        if nextitem is None or nextitem.path != item.path:
            gc.collect()
            gc.freeze()


def photograph(name: str) -> Image.Image:
    """Return one of scikit-image's photographs."""
    return Image.fromarray(getattr(skimage.data, name)())


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return the bytes of a picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _running(settings: Settings) -> Iterator[Context]:
    context = build(settings)
    context.store.start()
    assert context.store.wait(120)
    failed = {name: entry.error for name, entry in context.store.entries.items() if entry.error}
    assert not failed
    yield context
    close(context)


@pytest.fixture(scope="session")
def tiny() -> Iterator[Context]:
    """The small networks of `catalog.toml`, ready, without a server."""
    yield from _running(Settings(catalog=CATALOG, device="cpu"))


@pytest.fixture(scope="session")
def embedded() -> Iterator[Context]:
    """The embedded models, ready, without a server."""
    yield from _running(Settings(device="cpu"))


@contextmanager
def serving(settings: Settings, patience_s: float = 120) -> Iterator[httpx.Client]:
    """Serve on a free port and give a client, once all models are settled."""
    with serving_app(create_app(settings), patience_s) as client:
        yield client


@contextmanager
def serving_app(app: FastAPI, patience_s: float = 120) -> Iterator[httpx.Client]:
    """Serve an application that the caller goes on to look into, by the server that it is served by elsewhere."""
    started = threading.Event()

    class Started(Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started.set()

    server = Started(app, Settings(allowed_hosts="*"))  # raw requests call it what they like
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # by its protocol asyncio knows to send at once
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            assert started.wait(60)
            assert app.state.context.store.wait(patience_s)
            # Nothing is encrypted here, and certificates that would be trusted take long to read.
            with httpx.Client(
                base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=120, verify=False
            ) as client:
                yield client
        finally:  # a test that fails must not leave a server behind, which would keep the run from ending
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def client() -> Iterator[httpx.Client]:
    """An HTTP client of a server on the small networks, all of them ready."""
    with serving(Settings(catalog=CATALOG, device="cpu")) as client:
        yield client


@pytest.fixture
def device() -> Iterator[Device]:
    """A device of small batches, which runs nothing yet."""
    device = Device(torch.device("cpu"), max_batch_rows=8)
    yield device
    device.close()


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """What keeps the spans that are made meanwhile."""
    exporter = InMemorySpanExporter()
    spans.install(exporter)
    yield exporter
    spans.uninstall()


@pytest.fixture(scope="session")
def chelsea() -> bytes:
    """A photograph of a cat, as PNG."""
    return encoded(photograph("chelsea"))


@pytest.fixture
def noise() -> Callable[[int, int], bytes]:
    """Make a PNG of seeded noise, (width, height)."""

    def make(width: int, height: int) -> bytes:
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return encoded(Image.fromarray(pixels))

    return make


@pytest.fixture(autouse=True)
def _all_cores() -> None:
    """Give this thread its cores back, which the commands under test leave to the device thread."""
    use_threads(ALL_THREADS)

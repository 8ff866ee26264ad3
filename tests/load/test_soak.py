"""Short forms of the load tools, on a small network."""

import asyncio
import gc
import threading
import time
from argparse import Namespace

import pytest
from torch import Tensor

from service.app import build, close, create_app
from service.engine.scheduler.run import Run
from service.images import Picture
from service.settings import Settings
from tests.conftest import CATALOG, serving_app
from tests.load.open_loop import run, table
from tests.load.soak import Soak
from tests.load.traffic import KINDS, Server, picture, serving

THREADS = 2


@pytest.fixture(scope="module")
def server():
    with serving("--catalog", str(CATALOG), "--device", "cpu", HEATLENS_SCORE_CACHE_MIB="1") as server:
        yield server


def test_soak(server: Server) -> None:
    soak = Soak(server, list(KINDS), 3, seed=0, looks=1, most=2)
    report = asyncio.run(soak.run(4, 3, clients=6, max_growth=0.1))
    assert not report.violations, report.table()
    assert report.outcomes["status 200"] > 50
    assert all(report.outcomes[f"hung up {how}"] for how in ("waiting", "sending", "on events"))


def test_open_loop(server: Server) -> None:
    sizes = {"seconds": 1.0, "last_seconds": 1.5, "rate": 10.0, "clients": 2, "capacity_multiple": 1.0}
    options = Namespace(mix="cheap", deadline=5.0, seed=0, **sizes)
    capacity, steps = asyncio.run(run(server.url, options))
    assert capacity == 10
    assert [step.multiple for step in steps] == [0.5, 1]
    assert steps[0].seconds < 1.5 <= steps[1].seconds
    assert sum(step.sent for step in steps) == sum(sum(step.statuses.values()) for step in steps) > 5
    assert "| 0.5x |" in table(capacity, steps, "cheap")


@pytest.fixture(scope="module")
def app():
    return create_app(Settings(catalog=CATALOG, device="cpu", worker_threads=THREADS))


@pytest.fixture(scope="module")
def client(app):
    with serving_app(app) as client:
        yield client


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize(
    "request_", ["{}", '{"timeout_s": 0.01, "params": {"window": 8, "stride": 1}}', '{"targets": [9]}']
)
def test_no_request_waits_for_the_garbage_collector(app, client, accept: str, request_: str) -> None:
    """Pictures are large, and the collector, which only counts objects, lets many of them pile up."""

    def all_of_them() -> set[int]:
        return {id(found) for found in gc.get_objects() if type(found) in (Picture, Run)}

    def settle(context) -> None:
        """Let every thread end what it is about: a request that is late goes on until its thread sees it."""
        for pool in (context.pool, context.long_pool):
            met = threading.Barrier(THREADS)
            for waiting in [pool.submit(met.wait, 60) for _ in range(THREADS)]:
                waiting.result(60)
        context.device.call(lambda: None)

    gc.disable()
    try:
        before = all_of_them()
        for number in range(5):
            files, data = {"image": picture("small", number)}, {"request": request_}
            client.post("/explain/occlusion", files=files, data=data, headers={"accept": accept})
        until = time.monotonic() + 60
        settle(app.state.context)
        while len(all_of_them() - before) > 2:  # the last ones may be on their way out; what waits for it stays
            assert time.monotonic() < until
            settle(app.state.context)
    finally:
        gc.enable()


def test_loading_leaves_no_tensors_to_the_collector() -> None:
    """What is left to it by a start stays: it is old by then, and what is old is searched once in hours."""
    gc.collect()
    gc.disable()
    try:
        context = build(Settings(catalog=CATALOG, device="cpu", tune=False, verify=False))
        try:
            context.store.start()
            assert context.store.wait(60)
        finally:
            close(context)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [found.shape for found in gc.garbage if isinstance(found, Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()

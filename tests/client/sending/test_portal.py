"""An event loop in a thread, and what lives there: ended by whoever has it, or where nobody has it any more."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from service.client.errors import ConnectionFailed
from service.client.sending import portal as portals
from service.client.sending.portal import Portal


class Lives:
    """Something that notes where it is closed."""

    def __init__(self, closed):
        self.closed = closed

    async def close(self):
        self.closed.append(threading.current_thread().name)


async def named(client):
    return threading.current_thread()


def test_it_may_be_closed_and_used_again():
    closed = []
    portal = Portal(lambda: Lives(closed))
    portal.close()  # nothing was begun
    for count in (1, 2):
        thread = portal.run(named)
        portal.close()
        assert not thread.is_alive()
        assert closed == ["heatlens-client"] * count


def test_what_nobody_has_any_more_leaves_no_thread():
    closed = []
    portal = Portal(lambda: Lives(closed))
    thread = portal.run(named)
    del portal
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()
    assert closed == ["heatlens-client"]


LEFT_OPEN = """
import sys
from service.client import Client, ConnectionFailed
hl = Client("http://127.0.0.1:1", max_retries=0)
try:
    hl.version()
except ConnectionFailed:
    assert "torch" not in sys.modules  # whose import puts what is called at the end into another order
    print("not there")
"""


def test_a_process_ends_whose_client_nobody_closed():
    done = subprocess.run([sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "not there\n", "")


async def waits(client):
    client.begun.set()
    await asyncio.Event().wait()


def test_whoever_waits_is_told_that_the_client_was_closed():
    """It would wait for ever, as nothing runs any more that could answer."""
    lives = Lives([])
    lives.begun = threading.Event()
    portal, told = Portal(lambda: lives), []

    def asks():
        with pytest.raises(ConnectionFailed, match="was closed") as error:
            portal.run(waits)
        told.append(error)

    thread = threading.Thread(target=asks, daemon=True)
    thread.start()
    assert lives.begun.wait(60)
    portal.close()
    thread.join(60)
    assert told
    assert lives.closed == ["heatlens-client"]


def test_what_is_begun_and_not_fetched_ends_with_its_error():
    lives = Lives([])
    lives.begun = threading.Event()
    portal = Portal(lambda: lives)
    future = portal.start(waits)
    assert lives.begun.wait(60)
    portal.close()
    assert isinstance(future.exception(60), ConnectionFailed)


class Stays(Lives):
    """Something that does not end, and breaks off nothing."""

    async def close(self):
        await super().close()
        await asyncio.Event().wait()


async def deaf(client):
    client.begun.set()
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if client.closed:
            return


def test_what_does_not_end_by_itself_is_left(monkeypatch):
    for name in ("_BREAK_OFF_S", "_CLOSE_S"):
        monkeypatch.setattr(portals, name, 0.01)
    lives = Stays([])
    lives.begun = threading.Event()
    portal = Portal(lambda: lives)
    thread = portal.run(named)
    portal.start(deaf)
    assert lives.begun.wait(60)
    portal.close()
    assert not thread.is_alive()
    assert lives.closed == ["heatlens-client"]


def test_a_loop_that_is_kept_busy_keeps_nobody(monkeypatch):
    monkeypatch.setattr(portals, "_LAST_S", 0.01)
    begun, go = threading.Event(), threading.Event()

    async def blocks(client):
        begun.set()
        go.wait(60)

    portal = Portal(lambda: Lives([]))
    portal.start(blocks)
    assert begun.wait(60)
    thread = portal._life.thread
    portal.close()
    assert thread.is_alive()
    go.set()
    thread.join(60)
    assert not thread.is_alive()


LEFT_TO_THE_END = """
import asyncio, os, sys, threading
from service.client import Client, HeatlensError

begun = threading.Event()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            step = (await receive())["type"]
            await send({"type": f"{step}.complete"})
            if step == "lifespan.shutdown":
                return
    if scope["path"] == "/health/ready":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})
        return
    begun.set()
    while (await receive())["type"] != "http.disconnect":
        pass

hl = Client(app=app)
asks = hl.explain_many("saliency", [b"x"] * 3)
for ask in (lambda: next(asks), lambda: hl.predict(b"x"), lambda: next(hl.watch("saliency", b"x").__enter__())):
    begun.clear()
    threading.Thread(target=ask, daemon=True).start()
    begun.wait()
hl._portal._turn.acquire()  # as where another thread begins something
child = os.fork()
if not child:
    print("child", hl.ready(), flush=True)
    sys.exit(4)
hl._portal._turn.release()
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
sys.exit(3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_process_ends_in_whose_threads_much_is_under_way_and_so_does_its_fork():
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", LEFT_TO_THE_END],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "child True\nchild 4\n", "")


def test_an_interrupt_ends_what_was_waited_for(monkeypatch):
    ended = threading.Event()

    async def waits(client):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    portal = Portal(lambda: Lives([]))
    start = portal.start

    def interrupted(work):
        found = start(work)
        portal.start = start
        portal.run(named)  # it has begun
        monkeypatch.setattr(found, "result", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        return found

    portal.start = interrupted
    with pytest.raises(KeyboardInterrupt):
        portal.run(waits)
    assert ended.wait(60)
    portal.close()

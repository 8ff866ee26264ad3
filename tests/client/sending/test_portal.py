"""An event loop in a thread, and what lives there: ended by whoever has it, or where nobody has it any more."""

import asyncio
import gc
import subprocess
import sys
import threading

import pytest

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

"""An event loop in a thread, for programs that have none: whatever is asked of what lives there is run there."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar


class Closing(Protocol):
    """What may live there: it is closed at the end."""

    async def close(self) -> None:
        """End it."""


T = TypeVar("T")
C = TypeVar("C", bound=Closing)
_PORTALS: weakref.WeakSet[Portal[Any]] = weakref.WeakSet()  # closed with the process: nobody has to close a client


class Portal(Generic[C]):
    """An event loop in a thread, and the client that lives there; in a forked process new ones."""

    def __init__(self, make: Callable[[], C]) -> None:
        self._make = make
        self._turn = threading.Lock()
        self._process: int | None = None
        self._client = make()  # whose mistakes are told at once
        self._made_in: int | None = os.getpid()
        _PORTALS.add(self)

    def start(self, work: Callable[[C], Coroutine[Any, Any, T]]) -> Future[T]:
        """Let the loop do what is asked of the client."""
        with self._turn:
            if self._process != os.getpid():  # threads do not outlive a fork
                self._process = os.getpid()
                self._loop = asyncio.new_event_loop()
                if self._made_in != self._process:
                    self._client, self._made_in = self._make(), self._process
                self._thread = threading.Thread(target=_run, args=(self._loop,), name="heatlens-client", daemon=True)
                self._thread.start()
                self._end = weakref.finalize(self, _end, self._process, self._loop, self._client)
                self._end.atexit = False
        if threading.current_thread() is self._thread:
            raise RuntimeError("this would wait for itself; use AsyncClient in an event loop")
        return asyncio.run_coroutine_threadsafe(work(self._client), self._loop)

    def run(self, work: Callable[[C], Coroutine[Any, Any, T]]) -> T:
        """Return what that gives; whatever interrupts the waiting stops the work."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the client, the loop and the thread."""
        if self._process != os.getpid():
            return
        if self._end.detach() is not None:  # calling it does nothing once a process ends
            _end(self._process, self._loop, self._client)
        self._thread.join()
        self._process = self._made_in = None  # it may be used again


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(process: int, loop: asyncio.AbstractEventLoop, client: Closing) -> None:
    """End a client, its loop and its thread, also where nobody has them any more."""

    async def ending() -> None:
        try:
            await client.close()
        finally:
            loop.stop()

    if process == os.getpid():
        asyncio.run_coroutine_threadsafe(ending(), loop)


@atexit.register
def _close_all() -> None:
    for portal in list(_PORTALS):
        portal.close()

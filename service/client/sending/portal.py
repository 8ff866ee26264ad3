"""An event loop in a thread, for programs that have none: whatever is asked of what lives there is run there."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

from ..errors import ConnectionFailed


class Closing(Protocol):
    """What may live there: it is closed at the end."""

    async def close(self) -> None:
        """End it."""


T = TypeVar("T")
C = TypeVar("C", bound=Closing)
_PORTALS: weakref.WeakSet[Portal[Any]] = weakref.WeakSet()  # closed with the process: nobody has to close a client
_BREAK_OFF_S, _CLOSE_S = 5.0, 10.0  # for what is asked to end by itself; an application may not
_LAST_S = _BREAK_OFF_S + _CLOSE_S + 5.0  # for a thread whose loop may be kept busy: it does not keep a process


class Portal(Generic[C]):
    """An event loop in a thread, and the client that lives there; in a forked process new ones."""

    def __init__(self, make: Callable[[], C]) -> None:
        self._make = make
        self._turn = threading.Lock()
        self._life: _Life[C] | None = None
        self._client = make()  # whose mistakes are told at once
        self._made_in: int | None = os.getpid()
        _PORTALS.add(self)

    def start(self, work: Callable[[C], Coroutine[Any, Any, T]]) -> Future[T]:
        """Let the loop do what is asked of the client.

        Raises (in the future):
            ConnectionFailed: the client was closed meanwhile.
        """
        with self._turn:
            if self._life is None or self._life.process != os.getpid():  # threads do not outlive a fork
                if self._made_in != os.getpid():
                    self._client, self._made_in = self._make(), os.getpid()
                self._life = _Life(self._client)
                self._end = weakref.finalize(self, self._life.end)
                self._end.atexit = False
            if threading.current_thread() is self._life.thread:
                raise RuntimeError("this would wait for itself; use AsyncClient in an event loop")
            return self._life.start(work)

    def run(self, work: Callable[[C], Coroutine[Any, Any, T]]) -> T:
        """Return what that gives; whatever interrupts the waiting stops the work.

        Raises:
            ConnectionFailed: the client was closed meanwhile.
        """
        _leave_to_its_end()
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            _leave_to_its_end()
            raise

    def close(self) -> None:
        """End the client, the loop and the thread; what is waited for ends with an error."""
        with self._turn:
            life, self._life = self._life, None
            if life is None or life.process != os.getpid():
                return
            self._made_in = None  # it may be used again
            self._end.detach()  # calling it does nothing once a process ends
            life.end()
        life.thread.join(_LAST_S)

    def forked(self) -> None:
        """Forget, in a forked process, whoever was about to start something in the other one."""
        self._turn = threading.Lock()


class _Life(Generic[C]):
    """A client, its loop and its thread, from their beginning to their end."""

    def __init__(self, client: C) -> None:
        self.process = os.getpid()
        self._client = client
        self._loop = asyncio.new_event_loop()
        self._running: set[asyncio.Task[Any]] = set()
        self._ending: asyncio.Task[None] | None = None
        self.thread = threading.Thread(target=self._run, name="heatlens-client", daemon=True)
        self.thread.start()

    def start(self, work: Callable[[C], Coroutine[Any, Any, T]]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(self._working(work), self._loop)

    def end(self) -> None:
        """Begin to end, also where nobody has it any more."""
        if self.process == os.getpid():
            self._loop.call_soon_threadsafe(self._begin_to_end)

    async def _working(self, work: Callable[[C], Coroutine[Any, Any, T]]) -> T:
        task = asyncio.current_task()
        assert task is not None  # this runs in one
        self._running.add(task)
        try:
            return await work(self._client)
        except asyncio.CancelledError:
            if self._ending is None:
                raise
            raise ConnectionFailed("the client was closed before there was an answer") from None
        finally:
            self._running.discard(task)

    def _begin_to_end(self) -> None:
        self._ending = self._loop.create_task(self._end())

    async def _end(self) -> None:
        """Break off what runs, close the client, and leave no task behind: each step has its time."""
        try:
            await _broken_off(self._running, _BREAK_OFF_S)
            await asyncio.wait_for(self._client.close(), _CLOSE_S)
        finally:
            await _broken_off(asyncio.all_tasks() - {asyncio.current_task()}, 1.0)
            self._loop.stop()

    def _run(self) -> None:
        self._loop.set_exception_handler(
            lambda loop, told: None if self._ending else loop.default_exception_handler(told)
        )
        self._loop.run_forever()
        self._loop.close()


async def _broken_off(tasks: Collection[asyncio.Task[Any] | None], time_s: float) -> None:
    """Cancel tasks, and wait some time until they have ended."""
    left = {task for task in tasks if task is not None}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=time_s)


_OVER = threading.Event()  # the process ends


def _leave_to_its_end() -> None:
    """Let a thread that its process does not wait for rest once that ends: nobody is there to be told."""
    if _OVER.is_set() and threading.current_thread().daemon:
        threading.Event().wait()


@atexit.register
def _close_all() -> None:
    _OVER.set()
    for portal in list(_PORTALS):
        portal.close()


def _forked() -> None:
    for portal in list(_PORTALS):
        portal.forked()


if hasattr(os, "register_at_fork"):  # there is none on Windows
    os.register_at_fork(after_in_child=_forked)

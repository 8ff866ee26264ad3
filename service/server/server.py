"""uvicorn, set up for this service, and stopped without losing what was accepted."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from service.api.callers.callers import holder
from service.server.connections import Connection, Front
from service.settings import Settings

log = logging.getLogger("heatlens")
DIED = 70  # exit status of a process whose engine has ended for good: EX_SOFTWARE of <sysexits.h>
_LAST_S = 15.0  # after draining, for connections to close and threads to end
_RESERVED = 96  # descriptors that are no connections: files, the listening socket, libraries
_ACCEPTED, _QUEUED = 128, 2048  # connections that are taken in a round of the loop, and that may wait until then
_ROUNDS = 3  # from the one that takes a connection to the one that has closed whichever gives way to it
_SMALL = 16  # as many rounds fill what there is, where there are few descriptors
_HANG_UP = getattr(signal, "SIGHUP", None)  # there is none on Windows


class Server(uvicorn.Server):
    """At a first signal it takes no new work and finishes what it has; at a second one the process ends at once.

    Where the engine has ended for good, the server ends by itself, so that whoever started it starts it again:
    `status` is then `DIED`, else 0.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.signalled = False
        self.status = 0
        self._ended = threading.Event()  # nothing runs, as before it was started and after it has stopped
        self._ended.set()
        connections, accepted = _descriptors(settings.max_connections)
        self.front = Front(
            connections,
            settings.head_timeout_s,
            settings.least_bytes_per_s,
            settings.unsent_mib * 2**20,
            settings.hosts,
            partial(holder, shares=settings.shares, proxies=settings.proxies),
        )
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=partial(Connection, self.front),  # type: ignore[arg-type]
                ws="none",  # whatever is installed: its connections would be bounded by nobody
                log_config=None,
                access_log=False,  # the application writes one line a request itself
                server_header=False,
                backlog=accepted,  # which asyncio takes for both
                proxy_headers=False,  # who a caller is, the connection says
                # 65 s outlive the idle connections of the usual proxies, which close theirs after 60.
                timeout_keep_alive=65,
                timeout_graceful_shutdown=5,
            )
        )

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop; where nothing is to be served, `status` says so."""
        self._ended.clear()
        try:
            super().run(sockets)
        except SystemExit as ended:  # uvicorn's: its process may hold what still loads, and is left as any other
            self.status = ended.code if isinstance(ended.code, int) else 1
            if not self.lifespan.should_exit:
                log.error(
                    "nothing is served: %s, port %d, cannot be listened on; choose another address (--host or "
                    "HEATLENS_HOST) or port (--port or HEATLENS_PORT)",
                    self.settings.host,
                    self.settings.port,
                )
        finally:
            self._ended.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen; connections that come at once are taken in a few at a time, and the others wait."""
        await super().startup(sockets)
        for listening in getattr(self, "servers", ()):
            for one in listening.sockets:
                with one.dup() as same:
                    same.listen(_QUEUED)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell whoever waits still that nobody will answer, and close all connections."""
        if (context := getattr(self.app.state, "context", None)) is not None:
            context.device.close(wait=False)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain at a terminal's hang-up, too, unless whoever started the process has it stay (`nohup`)."""
        main = threading.current_thread() is threading.main_thread()
        if _HANG_UP is None or not main or signal.getsignal(_HANG_UP) is signal.SIG_IGN:
            with super().capture_signals():
                yield
            return
        before = signal.signal(_HANG_UP, self.handle_exit)
        try:
            with super().capture_signals():
                yield
        finally:
            signal.signal(_HANG_UP, before)

    async def on_tick(self, counter: int) -> bool:
        """End where the engine has ended."""
        context = getattr(self.app.state, "context", None)
        if context is not None and not context.device.alive and not self.should_exit:
            log.critical("the engine has ended for good: so does the server, to be started again")
            self.status = DIED
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, or stop at once."""
        if self.signalled:
            log.warning("stopping at once")
            self.end(128 + sig)
            return
        self.signalled = True
        log.info("%s: finishing what was accepted", signal.Signals(sig).name)
        threading.Thread(target=self._drain, name="heatlens-drain", daemon=True).start()

    def leave(self) -> NoReturn:
        """End the process after it has served, with its status."""
        context = getattr(self.app.state, "context", None)
        if context is not None and context.store.join(0.0):
            self.end(self.status)  # what hangs inside PyTorch would crash an interpreter that ends
        sys.exit(self.status)

    @staticmethod
    def end(status: int) -> NoReturn:
        """End the process, whatever its threads are about: one that hangs in a forward would never be joined."""
        for handler in logging.root.handlers:
            handler.flush()
        os._exit(status)

    def _drain(self) -> None:
        context = getattr(self.app.state, "context", None)  # none yet, while the application starts
        try:
            if context is not None and not context.device.admission.drain(self.settings.drain_timeout_s):
                log.warning("not finished within %g s: stopping", self.settings.drain_timeout_s)
        finally:  # whatever happened: a server that was told to stop must not go on
            self.should_exit = True
        if not self._ended.wait(_LAST_S):
            log.critical("a batch hangs, and no thread of it can be ended: the process is")
            self.end(DIED)


def _descriptors(wanted: int) -> tuple[int, int]:
    """Return how many connections may be open, and how many are taken in a round of the loop, by the limit of them.

    The process raises its own limit where it has to be. More than may be open have a descriptor until others have given
    way. Without one asyncio takes nobody in for a second, whoever it is, and says so for each that waits.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted, _ACCEPTED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _RESERVED + _ROUNDS * _ACCEPTED
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted, _ACCEPTED
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    left = soft - _RESERVED
    accepted = max(1, min(_ACCEPTED, left // _SMALL))
    return max(1, min(wanted, left - _ROUNDS * accepted)), accepted

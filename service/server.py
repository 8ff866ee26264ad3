"""uvicorn, set up for this service, and stopped without losing what was accepted."""

import logging
import signal
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.settings import Settings

log = logging.getLogger("heatlens")


class Server(uvicorn.Server):
    """At a first signal it takes no new work and finishes what it has; at a second one it stops at once."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.signalled = False
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http="h11",  # also where a faster parser is installed: this one bounds what a request's head may take
                log_config=None,
                access_log=False,  # the application writes one line a request itself
                server_header=False,
                # 65 s outlive the idle connections of the usual proxies, which close theirs after 60.
                timeout_keep_alive=65,
                timeout_graceful_shutdown=5,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, or stop at once."""
        if self.signalled:
            log.warning("stopping at once")
            self.should_exit = self.force_exit = True
            return
        self.signalled = True
        log.info("%s: finishing what was accepted", signal.Signals(sig).name)
        threading.Thread(target=self._drain, name="heatlens-drain", daemon=True).start()

    def _drain(self) -> None:
        context = getattr(self.app.state, "context", None)  # none yet, while the application starts
        try:
            if context is not None and not context.device.admission.drain(self.settings.drain_timeout_s):
                log.warning("not finished within %g s: stopping", self.settings.drain_timeout_s)
        finally:  # whatever happened: a server that was told to stop must not go on
            self.should_exit = True

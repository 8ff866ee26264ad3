"""Answers that servers make: through the client, which asks again where that may help."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from service.api.formats import Format
from service.bulk.loop import Done, Stop
from service.bulk.worker import Worker, failed, line
from service.client import Client, Denied, HeatlensError, NotFound
from service.client.answers import Map
from service.rendering import encoders

EACH = 16
"""Pictures in flight at each server."""
PATIENCE_S = 60.0
"""How long a picture is asked again while servers are away or busy: they may be being started anew."""
REST_S = 10.0
"""How long a server that was away or busy is not asked, where another one can be."""
_OURS = ("/params", "/output", "/precision", "/model")  # pointers to what is the same for every picture


@dataclass
class _Server:
    client: Client
    busy: int = 0
    rests_until: float = 0.0


class Remote(Worker):
    """Explains pictures by servers; the next one goes to the server that has least to do.

    A server that is away or busy is passed over for a while, and its pictures go to the others.
    """

    errors = (HeatlensError,)

    def __init__(
        self,
        clients: Sequence[Client],
        method: str,
        options: Mapping[str, Any],
        formats: Mapping[str, Format],
        *,
        version: str | None = None,
        each: int = EACH,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take what is asked.

        Args:
            clients: one a server.
            method: how.
            options: of every request, as the client takes them.
            formats: of the files that are written, by ending.
            version: digest of the model that is asked; None: of any.
            each: pictures in flight at each server.
            clock, pause: seconds, and waiting for some.
        """
        self.method, self.formats, self.version = method, formats, version
        self._clock, self._pause = clock, pause
        json = ".json" in formats
        drawn: dict[str, Any] = {"heatmap": json or ".png" in formats, "array": "json" if json else "none"}
        if ".npy" in formats and not json:
            drawn["array"] = "base64"
        self.options = dict(options)
        self.whole = self.options | drawn  # all that a line of the manifest is made of, and most files
        self._turn = threading.Lock()
        self._servers = [_Server(client) for client in clients]
        super().__init__(each * len(clients))

    @contextmanager
    def _server(self, tried: _Server | None) -> Iterator[_Server]:
        with self._turn:
            now = self._clock()
            chosen = min(self._servers, key=lambda one: (one is tried, one.rests_until > now, one.busy))
            chosen.busy += 1
        try:
            yield chosen
        finally:
            with self._turn:
                chosen.busy -= 1

    def answered(self, data: bytes, sha256: str) -> Done:
        """Return a picture's files, and its line.

        Raises:
            Stop: no picture can be answered so.
        """
        end, tried = self._clock() + PATIENCE_S, None
        while True:
            with self._server(tried) as server:
                try:
                    found = self._asked(server.client, data, sha256)
                    server.rests_until = 0.0
                    return found
                except HeatlensError as error:
                    if not error.retriable:
                        raise
                    server.rests_until = self._clock() + (error.retry_after_s or REST_S)
                    if self._all_rest_until >= end:
                        raise
                    tried = server
            self._pause(max(0.0, self._all_rest_until - self._clock()))

    @property
    def _all_rest_until(self) -> float:
        return min(one.rests_until for one in self._servers)

    def _asked(self, client: Client, data: bytes, sha256: str) -> Done:
        sent = client.fetch(self.method, data, **self.whole)
        answer = orjson.loads(sent)
        if self.version is not None and answer["model"]["version"] != self.version:
            raise Stop(f"{client.url} now serves another {answer['model']['name']}, {answer['model']['version']}")
        files = {}
        for ending, format in self.formats.items():
            if ending == ".json":
                files[ending] = sent
            elif ending in (".png", ".npy") and answer["maps"]:
                first = Map.model_validate(answer["maps"][0])
                files[ending] = bytes(first.picture or b"") if ending == ".png" else encoders.npy(first.values)
            else:
                files[ending] = client.fetch(self.method, data, media_type=format.media_type, **self.options)
        return Done(line(answer, sha256), files)

    def refused(self, error: HeatlensError, sha256: str) -> Done:
        """Return what becomes of a picture without an answer.

        Raises:
            Stop: no picture can be answered so.
        """
        if isinstance(error, NotFound | Denied) or any(one.pointer.startswith(_OURS) for one in error.errors):
            raise Stop(str(error))
        return failed(
            {"type": error.type, "title": error.title, "status": error.status, "detail": error.detail}, sha256
        )

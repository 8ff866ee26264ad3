"""Answers that servers make: through the client, which asks again where that may help."""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import orjson

from service.api.formats import Format
from service.bulk.listing import Listed
from service.bulk.local import line
from service.bulk.loop import Done, Stop, failed
from service.client import Client, Denied, HeatlensError, NotApplicable, NotFound
from service.client.answers import Map
from service.rendering import encoders

EACH = 16
"""Pictures in flight at each server."""
_OURS = ("/params", "/output", "/precision", "/model")  # pointers to what is the same for every picture


class Remote:
    """Explains pictures by servers; the next one goes to the server that has least to do."""

    def __init__(
        self, clients: Sequence[Client], method: str, options: Mapping[str, Any], formats: Mapping[str, Format]
    ) -> None:
        """Take what is asked.

        Args:
            clients: one a server.
            method: how.
            options: of every request, as the client takes them.
            formats: of the files that are written, by ending.
        """
        self.clients, self.method, self.formats = clients, method, formats
        json = ".json" in formats
        drawn: dict[str, Any] = {"heatmap": json or ".png" in formats, "array": "json" if json else "none"}
        if ".npy" in formats and not json:
            drawn["array"] = "base64"
        self.options = dict(options)
        self.whole = self.options | drawn  # all that a line of the manifest is made of, and most files
        self._pool = ThreadPoolExecutor(EACH * len(clients), "heatlens-bulk")
        self._turn = threading.Lock()
        self._busy: Counter[int] = Counter(dict.fromkeys(range(len(clients)), 0))

    def start(self, picture: Listed) -> "Future[Done]":
        """Begin with one picture."""
        return self._pool.submit(self._work, picture)

    def close(self) -> None:
        """Begin with no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    @contextmanager
    def _client(self) -> Iterator[Client]:
        with self._turn:
            i = min(self._busy, key=lambda i: self._busy[i])
            self._busy[i] += 1
        try:
            yield self.clients[i]
        finally:
            with self._turn:
                self._busy[i] -= 1

    def _work(self, picture: Listed) -> Done:
        try:
            data = picture.path.read_bytes()
        except OSError as error:
            return Done(None, problem=error.strerror or str(error))
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            with self._client() as client:
                return self._answered(client, data, sha256)
        except (NotFound, Denied, NotApplicable) as error:
            raise Stop(str(error)) from None
        except HeatlensError as error:
            if any(one.pointer.startswith(_OURS) for one in error.errors):
                raise Stop(str(error)) from None
            problem = {"type": error.type, "title": error.title, "status": error.status, "detail": error.detail}
            return failed(error.status, error.detail, problem, sha256)

    def _answered(self, client: Client, data: bytes, sha256: str) -> Done:
        sent = client.fetch(self.method, data, **self.whole)
        answer = orjson.loads(sent)
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

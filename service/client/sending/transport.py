"""Requests over HTTP: sent again where that may help, within one time limit; every failure as this client's own error.

All that is known of httpx stands here, and in `asgi`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from .. import errors
from ..errors import ConnectionFailed, DeadlineExceeded, HeatlensError
from .events import Event, Reader

_CONNECT_S = 10.0
_GRACE_S = 5.0  # that a server has, beyond a request's own time, to say that it is up
_SILENCE_S = 60.0  # of a stream, which says something every 15 s
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _JITTER = 0.5, 8.0, 0.25


@dataclass(frozen=True)
class Asked:
    """One request, which may be sent more than once.

    body: makes what httpx sends, of the seconds that are left: `json=`, or `files=`.
    headers: beside those of every request.
    """

    verb: str
    path: str
    body: Callable[[float], dict[str, Any]] = lambda left_s: {}
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Patience:
    """How often, and until when, a request is sent again.

    timeout_s: for all of it, pauses included.
    retries: at most, after the first try.
    """

    timeout_s: float
    retries: int
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        self.end = self.clock() + self.timeout_s
        self.tries = 0

    @property
    def left_s(self) -> float:
        """Return the time that is left; more than none.

        Raises:
            DeadlineExceeded: there is none.
        """
        if (left := self.end - self.clock()) <= 0:
            raise DeadlineExceeded(f"no answer came within timeout_s = {self.timeout_s:g} s; raise it, or ask for less")
        return left

    def pause_s(self, error: HeatlensError) -> float:
        """Return how long to wait before another try; raise the error where there is to be none.

        That is what the server says, else half a second, doubled each time, up to 8 s; and up to a quarter more by
        chance, so that many clients do not come back at once.

        Raises:
            HeatlensError: the one given; it would come again, or there is no time left to wait.
        """
        pause = error.retry_after_s
        if pause is None:
            pause = min(_FIRST_PAUSE_S * 2**self.tries, _LONGEST_PAUSE_S)
        pause *= 1 + _JITTER * self.chance()
        if not error.retriable or self.tries >= self.retries or self.clock() + pause >= self.end:
            raise error
        self.tries += 1
        return pause


class Transport:
    """Sends requests to one server."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        retries: int,
        transport: httpx.AsyncBaseTransport | None = None,
        pause: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        """Take where to, what every request says, and by what it is sent if not over the network.

        Raises:
            ConnectionFailed: it is no address.
        """
        self.retries, self._pause = retries, pause
        try:
            said = [(name.encode("ascii"), value.encode()) for name, value in headers.items()]
            self._http = httpx.AsyncClient(base_url=url, headers=said, transport=transport)
        except (httpx.InvalidURL, TypeError, ValueError) as error:
            raise ConnectionFailed(f"{url!r} is no address ({error}); write http://HOST:PORT") from None
        if self._http.base_url.scheme not in ("http", "https") or not self._http.base_url.host:
            raise ConnectionFailed(f"{url!r} is no address; write http://HOST:PORT")

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def send(self, asked: Asked, timeout_s: float, *, retries: int | None = None) -> bytes:
        """Return an answer's body.

        Raises:
            HeatlensError: whatever went wrong, after as many tries as may help.
        """
        patience = Patience(timeout_s, self.retries if retries is None else retries)
        while True:
            try:
                async with self._answer(asked, patience.left_s, read_s=patience.left_s + _GRACE_S) as response:
                    return await response.aread()
            except HeatlensError as error:
                await self._pause(patience.pause_s(error))

    async def events(self, asked: Asked, timeout_s: float) -> AsyncIterator[Event]:
        """Give an answer's events as they come; the request is sent again only before the first one.

        Raises:
            HeatlensError: whatever went wrong; a stream that breaks off is a `ConnectionFailed`.
        """
        patience = Patience(timeout_s, self.retries)
        told = 0
        while True:
            try:
                async with self._answer(asked, patience.left_s, read_s=_SILENCE_S) as response:
                    reader = Reader()
                    async with aclosing(response.aiter_bytes()) as pieces:  # type: ignore[type-var]
                        async for piece in pieces:
                            for event in reader.feed(piece):
                                told += 1
                                yield event
                return
            except HeatlensError as error:
                if told:
                    raise
                await self._pause(patience.pause_s(error))

    @asynccontextmanager
    async def _answer(self, asked: Asked, left_s: float, read_s: float) -> AsyncIterator[httpx.Response]:
        """Send a request once, and give a good answer to it before its body has been read."""
        timeout = httpx.Timeout(left_s, connect=min(left_s, _CONNECT_S), read=min(read_s, left_s + _GRACE_S))
        with _translated(self._http.base_url):
            request = self._http.build_request(
                asked.verb,
                asked.path,
                headers=dict(asked.headers),
                params=dict(asked.query) or None,
                timeout=timeout,
                **asked.body(left_s),
            )
            response = await self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    raise errors.of_response(response.status_code, response.headers, await response.aread())
                yield response
            finally:
                await response.aclose()


class _translated:  # noqa: N801 - read as a word: `with _translated(...)`
    """Makes this client's errors of httpx's."""

    def __init__(self, url: httpx.URL) -> None:
        self.url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, httpx.HTTPError | httpx.InvalidURL):
            return
        said = f"{self.url}: {error or type(error).__name__}"
        if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout):
            raise DeadlineExceeded(f"{said}: nothing came any more; raise timeout_s, or ask for less") from error
        # What cannot be sent as it is cannot be sent another time either.
        own = isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError)
        if isinstance(error, httpx.TransportError) and not own:
            raise ConnectionFailed(f"{said}; is the server running there?", retriable=True) from error
        raise ConnectionFailed(said) from error

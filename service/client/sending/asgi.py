"""An application in this process, asked without a server or a network: started once, its answers streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from typing import Any

import httpx

Message = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Coroutine[Any, Any, None],
]
"""Any application of ASGI 3, as `service.app.create_app` returns one."""


class InProcess(httpx.AsyncBaseTransport):
    """Gives requests to an application. Its lifespan begins with the first one, and ends when this is closed.

    A client that closes an answer before its end is gone for the application, as one that hangs up is.
    """

    def __init__(self, app: Application) -> None:
        self.app = app
        self._lifespan: _Lifespan | None = None
        self._starting = asyncio.Lock()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request.

        Raises:
            httpx.TransportError: the application does not start, or fails before it answers.
        """
        async with self._starting:
            if self._lifespan is None:
                self._lifespan = _Lifespan(self.app)
            try:
                await self._lifespan.start()
            except httpx.ConnectError:
                self._lifespan = None  # the next one tries again
                raise
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise TypeError("an asynchronous client sends asynchronous bodies")
        exchange = _Exchange(self.app, _scope(request), b"".join([piece async for piece in request.stream]))
        status, headers = await exchange.begin()
        return httpx.Response(status, headers=headers, stream=exchange)

    async def aclose(self) -> None:
        """End the application's lifespan."""
        if self._lifespan is not None:
            await self._lifespan.stop()
            self._lifespan = None


def _scope(request: httpx.Request) -> dict[str, Any]:
    url = request.url
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.raw_path.partition(b"?")[0],
        "query_string": url.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "server": (url.host, url.port),
        "client": ("127.0.0.1", 0),
    }


class _Exchange(httpx.AsyncByteStream):
    """One request on its way through an application: the answer's body, piece by piece."""

    def __init__(self, app: Application, scope: dict[str, Any], body: bytes) -> None:
        self._body: bytes | None = body
        self._gone = asyncio.Event()
        self._messages: asyncio.Queue[Message] = asyncio.Queue(8)
        self._task = asyncio.ensure_future(app(scope, self._receive, self._messages.put))

    async def begin(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        try:
            first = await self._next()
        except BaseException:
            await self.aclose()
            raise
        if first is None:
            raise httpx.RemoteProtocolError("the application gave no answer")
        return first["status"], [(bytes(name), bytes(value)) for name, value in first["headers"]]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._next()) is not None:
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return
        raise httpx.RemoteProtocolError("the application ended in the midst of its answer")

    async def aclose(self) -> None:
        """Be gone, and wait until the application has noticed it."""
        self._gone.set()
        while not self._task.done():
            while not self._messages.empty():  # a full queue would keep it from noticing
                self._messages.get_nowait()
            getting = asyncio.ensure_future(self._messages.get())
            await asyncio.wait({self._task, getting}, return_when=asyncio.FIRST_COMPLETED)
            await _called_off(getting)
        if not self._task.cancelled():
            self._task.exception()  # which is for its own log

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _next(self) -> Message | None:
        """Return the next message; None where the application has ended."""
        getting = asyncio.ensure_future(self._messages.get())
        try:
            await asyncio.wait({self._task, getting}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
        finally:
            await _called_off(getting)
        with suppress(asyncio.QueueEmpty):
            return self._messages.get_nowait()
        if (error := self._task.exception()) is not None:
            raise httpx.RemoteProtocolError(f"the application failed: {error!r}") from error
        return None


async def _called_off(task: asyncio.Future[Any]) -> None:
    """Cancel what nobody waits for any more, and leave nothing of it to a loop that may be about to end."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})


class _Lifespan:
    """An application's lifespan, from its start to its end."""

    def __init__(self, app: Application) -> None:
        self._asked: asyncio.Queue[Message] = asyncio.Queue()
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        self._task = asyncio.ensure_future(app(scope, self._asked.get, self._said.put))
        self._started = asyncio.ensure_future(self._step("startup"))

    async def start(self) -> None:
        """Wait until it has begun; who is called off while it begins does not begin it twice.

        Raises:
            httpx.ConnectError: the application does not start.
        """
        said = await asyncio.shield(self._started)
        if said["type"] == "lifespan.startup.failed":
            raise httpx.ConnectError(f"the application does not start: {said.get('message', '')}")

    async def stop(self) -> None:
        """End it."""
        await asyncio.wait({self._started})
        await self._step("shutdown")
        await asyncio.wait({self._task})

    async def _step(self, name: str) -> Message:
        await self._asked.put({"type": f"lifespan.{name}"})
        said = asyncio.ensure_future(self._said.get())
        await asyncio.wait({self._task, said}, return_when=asyncio.FIRST_COMPLETED)
        if said.done():
            return said.result()
        said.cancel()
        if not self._task.cancelled():
            self._task.exception()  # an application may know of no lifespan, and is served without one
        return {"type": "none"}

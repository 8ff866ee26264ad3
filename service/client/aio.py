"""The client for programs with an event loop; `sync` is the same for all others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import cache
from importlib import metadata
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from . import errors, requests
from .errors import ConnectionFailed, HeatlensError, InvalidRequest
from .methods import typed
from .pictures import Picture
from .sending.asgi import Application, InProcess
from .sending.transport import Asked, Transport

if TYPE_CHECKING:  # which takes longer than all else to import, and is needed only once there is an answer
    import httpx

    from . import wire
    from .answers import Comparison, Explanation, Predictions, Progress

URL = "http://127.0.0.1:8000"


@cache
def _agent() -> str:
    """Return what the client calls itself; it is part of either distribution."""
    for name in ("heatlens-client", "heatlens"):
        try:
            return f"{name}/{metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "heatlens-client"


def _key(text: str) -> str:
    """Return a key without what files end in.

    Raises:
        InvalidRequest: it is more than one line, and no header can hold it.
    """
    key = text.strip()
    if not key or not key.isprintable():
        raise InvalidRequest("api_key holds a character that no key has, as the end of a line; give one key alone")
    return key


class AsyncClient:
    """Asks a heatlens server, or an application in this process.

        async with AsyncClient("http://127.0.0.1:8000") as hl:
            found = await hl.explain("occlusion", "cat.jpg", targets=["tabby"], window=48)

    Every request raises a `HeatlensError` where it fails, after as many tries as may help: what is busy, starting,
    lost on the way or answered by something that stands in between is asked again, and a wrong request never is.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        app: Application | None = None,
        api_key: str | None = None,
        timeout_s: float = 300.0,
        max_retries: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Take whom to ask; nothing is sent yet.

        Args:
            url: of the server, and the path that it is reached under, if any.
            app: an ASGI application, asked in this process; it is started with the first request.
            api_key: bearer key.
            timeout_s: for one request, tries and pauses included; the server is told of it.
            max_retries: tries after the first one.
            transport: of httpx, which sends the requests.

        Raises:
            ConnectionFailed: `url` is no address.
            InvalidRequest: `api_key` is no key.
        """
        headers = {"user-agent": _agent()} | ({"authorization": f"Bearer {_key(api_key)}"} if api_key else {})
        transport = InProcess(app) if app is not None else transport
        self._transport = Transport(url, headers, max_retries, transport)
        self.url, self.timeout_s = url, timeout_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; end the application, if it is one."""
        await self._transport.close()

    @typed
    async def explain(self, method: str, picture: Picture | None = None, /, **options: Any) -> Explanation:
        """Explain what the network makes of a picture.

        Args:
            method: how; see `methods()`.
            picture: a path, bytes, an open file, an array or a Pillow image; none for a method that needs none.
            options: `targets`, `model`, `precision`, `priority`, `timeout_s`, `pictures`; of the drawing `heatmap`,
                `overlay`, `colormap`, `opacity`, `size`; and the method's own parameters, which may stand in `params`.

        Raises:
            HeatlensError: whatever went wrong.
        """
        from .answers import Explanation, parsed

        asked = await asyncio.to_thread(requests.explain, method, picture, options)
        return parsed(Explanation, await self._send(asked, options))

    async def fetch(
        self, method: str, picture: Picture | None = None, *, media_type: str = requests.JSON, **options: Any
    ) -> bytes:
        """Return an answer as a file: the bytes that the service sends for a media type.

        Args:
            method: how.
            picture: as of `explain`.
            media_type: as `image/png`, `image/webp`, `application/x-npy`, `application/zip` or `application/json`.
            options: as of `explain`.

        Raises:
            HeatlensError: whatever went wrong.
        """
        asked = await asyncio.to_thread(requests.explain, method, picture, options, media_type)
        return await self._send(asked, options)

    @typed
    def watch(self, method: str, picture: Picture | None = None, /, **options: Any) -> AsyncWatch:
        """Explain as `explain` does, and tell meanwhile how far it is: `async with` it, and iterate.

        Leaving early stops the work.
        """
        return AsyncWatch(self._transport, method, picture, options, options.get("timeout_s") or self.timeout_s)

    async def explain_many(
        self, method: str, pictures: Iterable[Picture], *, concurrency: int = 16, **options: Any
    ) -> AsyncIterator[tuple[Picture, Explanation | HeatlensError]]:
        """Explain many pictures, and give each with what was found as soon as it is: an answer, or its error.

        Args:
            method: how.
            pictures: taken only as fast as they are worked on.
            concurrency: requests in flight, which share batches.
            options: as of `explain`.
        """
        waiting = iter(pictures)
        running: dict[asyncio.Future[Explanation], Picture] = {}
        try:
            while True:
                for one in islice(waiting, max(1, concurrency) - len(running)):
                    running[asyncio.ensure_future(self.explain(method, one, **options))] = one
                if not running:
                    return
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), _outcome(future)
        finally:
            for future in running:
                future.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def predict(
        self,
        picture: Picture,
        *,
        top_k: int | None = None,
        model: str | None = None,
        precision: wire.Precision | None = None,
        priority: int | None = None,
        timeout_s: float | None = None,
    ) -> Predictions:
        """Return what the network sees.

        Args:
            picture: a path, bytes, an open file, an array or a Pillow image.
            top_k: how many predictions, best first; default 5.
            model: its name; default: the default model.
            precision: of the forward.
            priority: -10..10; higher goes first.
            timeout_s: instead of the client's own.

        Raises:
            HeatlensError: whatever went wrong.
        """
        from .answers import Predictions, parsed

        options = {"top_k": top_k, "model": model, "precision": precision, "priority": priority}
        asked = await asyncio.to_thread(requests.predict, picture, options)
        return parsed(Predictions, await self._send(asked, {"timeout_s": timeout_s}))

    async def compare(
        self, methods: Sequence[str | Mapping[str, Any]] | None, picture: Picture, **options: Any
    ) -> Comparison:
        """Hold methods against each other on one picture, by numbers that tell which to believe.

        Args:
            methods: names, or `{"method": ..., "params": {...}}`; None: the server's choice.
            picture: a path, bytes, an open file, an array or a Pillow image.
            options: `metrics`, `box`, and those of `explain` that are no method's own.

        Raises:
            HeatlensError: whatever went wrong with all of it; what ends one method is its `problem`.
        """
        from .answers import Comparison, parsed

        asked = await asyncio.to_thread(requests.compare, methods, picture, options)
        return parsed(Comparison, await self._send(asked, options))

    async def methods(self) -> list[wire.MethodInfo]:
        """Return all methods: what each shows, needs and costs, and its parameters."""
        from . import wire
        from .answers import parsed

        return parsed(wire.MethodList, await self._get("/methods")).methods

    async def models(self) -> list[wire.ModelSummary]:
        """Return all served models."""
        from . import wire
        from .answers import parsed

        return parsed(wire.ModelList, await self._get("/models")).models

    async def model(self, name: str) -> wire.ModelInfo:
        """Return one model in full: its version, input, layers and which methods apply to it.

        Raises:
            NotFound: there is none of that name.
        """
        from . import wire
        from .answers import parsed

        return parsed(wire.ModelInfo, await self._get(f"/models/{requests.named(name)}"))

    async def layers(self, name: str) -> list[wire.LayerWire]:
        """Return a model's layers, in the order in which they answer.

        Raises:
            NotFound: there is none of that name.
        """
        from . import wire
        from .answers import parsed

        return parsed(wire.LayerList, await self._get(f"/models/{requests.named(name)}/layers")).layers

    async def labels(self, name: str) -> list[str]:
        """Return the names of a model's outputs, in their order.

        Raises:
            NotFound: there is none of that name.
        """
        from . import wire
        from .answers import parsed

        return parsed(wire.LabelList, await self._get(f"/models/{requests.named(name)}/labels")).labels

    async def colormaps(self) -> list[str]:
        """Return the names of all colour maps."""
        from . import wire
        from .answers import parsed

        return [one.name for one in parsed(wire.ColormapList, await self._get("/colormaps")).colormaps]

    async def version(self) -> wire.Version:
        """Return which build answers: its version, revision, PyTorch and device."""
        from . import wire
        from .answers import parsed

        return parsed(wire.Version, await self._get("/version"))

    async def ready(self, model: str | None = None) -> bool:
        """Whether requests to a model, by default the default one, would be answered now.

        Raises:
            NotFound: there is none of that name.
        """
        query = {"model": model} if model is not None else {}
        try:
            await self._transport.send(Asked("GET", "/health/ready", query=query), self.timeout_s, retries=0)
        except (ConnectionFailed, errors.DeadlineExceeded):
            return False
        except HeatlensError as error:  # of what is busy or starting, and of proxies before it, the same
            if not error.retriable:
                raise
            return False
        return True

    async def _get(self, path: str) -> bytes:
        return await self._transport.send(Asked("GET", path), self.timeout_s)

    async def _send(self, asked: Asked, options: Mapping[str, Any]) -> bytes:
        return await self._transport.send(asked, options.get("timeout_s") or self.timeout_s)


def _outcome(future: asyncio.Future[Explanation]) -> Explanation | HeatlensError:
    """Return an answer or its error.

    Raises:
        Exception: another one, which is a defect.
    """
    try:
        return future.result()
    except HeatlensError as error:
        return error


class AsyncWatch:
    """An explanation under way: iterate over its progress, then read its `result`."""

    def __init__(
        self,
        transport: Transport,
        method: str,
        picture: Picture | None,
        options: Mapping[str, Any],
        timeout_s: float,
    ) -> None:
        self._transport, self._timeout_s = transport, timeout_s
        self._question = method, picture, options
        self._told: AsyncIterator[Progress] | None = None
        self._turn = asyncio.Lock()  # what was broken off ends before all is closed
        self._result: Explanation | None = None

    async def __aenter__(self) -> Self:
        asked = await asyncio.to_thread(requests.explain, *self._question, requests.EVENTS)
        self._told = self._progress(asked)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the work, if it has not ended."""
        if self._told is not None:
            async with self._turn:
                await self._told.aclose()  # type: ignore[attr-defined]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Progress:
        if self._told is None:
            raise RuntimeError("enter it first: async with hl.watch(...) as run")
        async with self._turn:
            return await anext(self._told)

    @property
    def result(self) -> Explanation:
        """The answer, once there is no more progress.

        Raises:
            RuntimeError: it is not there yet.
        """
        if self._result is None:
            raise RuntimeError("there is no result yet; iterate to the end, or call finish()")
        return self._result

    async def finish(self) -> Explanation:
        """Wait for the end, and return the answer.

        Raises:
            HeatlensError: whatever went wrong.
        """
        async for _ in self:
            pass
        return self.result

    async def _progress(self, asked: Asked) -> AsyncIterator[Progress]:
        from .answers import Explanation, Progress, parsed

        async with aclosing(self._transport.events(asked, self._timeout_s)) as events:  # type: ignore[type-var]
            async for event in events:
                if event.name == "result":
                    self._result = parsed(Explanation, event.data)
                    return
                if event.name == "error":
                    raise errors.of_problem(errors.document(event.data))
                if event.name in ("progress", "partial"):
                    yield parsed(Progress, event.data)
        raise ConnectionFailed("the stream ended before its result; ask again")

"""The client for programs without an event loop: `AsyncClient`, run in a thread of its own.

So there is one client and not two, and whatever waits here can be broken off: an interrupt, or leaving a `watch`, ends
the request on the other side, too.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from .aio import URL, AsyncClient, AsyncWatch
from .errors import HeatlensError
from .methods import typed
from .pictures import Picture
from .requests import JSON
from .sending.asgi import Application
from .sending.portal import Portal

if TYPE_CHECKING:
    import httpx

    from . import wire
    from .answers import Comparison, Explanation, Predictions, Progress


class Client:
    """Asks a heatlens server, or an application in this process.

        hl = Client("http://127.0.0.1:8000")
        found = hl.explain("occlusion", "cat.jpg", targets=["tabby"], window=48)
        found.maps[0].values  # float32 array
        found  # notebooks show all maps

    Every request raises a `HeatlensError` where it fails, after as many tries as may help: what is busy, starting,
    lost on the way or answered by something that stands in between is asked again, and a wrong request never is.
    It may be used by several threads.
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
        """Take whom to ask; nothing is sent yet. Arguments are those of `AsyncClient`.

        Raises:
            ConnectionFailed: `url` is no address.
        """
        self.url, self.timeout_s = url, timeout_s
        self._portal = Portal(
            lambda: AsyncClient(
                url, app=app, api_key=api_key, timeout_s=timeout_s, max_retries=max_retries, transport=transport
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; end the application, if it is one."""
        self._portal.close()

    @typed
    def explain(self, method: str, picture: Picture | None = None, /, **options: Any) -> Explanation:
        """Explain what the network makes of a picture.

        Args:
            method: how; see `methods()`.
            picture: a path, bytes, an open file, an array or a Pillow image; none for a method that needs none.
            options: `targets`, `model`, `precision`, `priority`, `timeout_s`, `pictures`; of the drawing `heatmap`,
                `overlay`, `colormap`, `opacity`, `size`; and the method's own parameters, which may stand in `params`.

        Raises:
            HeatlensError: whatever went wrong.
        """
        return self._portal.run(lambda client: client.explain(method, picture, **options))

    def fetch(self, method: str, picture: Picture | None = None, *, media_type: str = JSON, **options: Any) -> bytes:
        """Return an answer as a file; arguments are those of `AsyncClient.fetch`.

        Raises:
            HeatlensError: whatever went wrong.
        """
        return self._portal.run(lambda client: client.fetch(method, picture, media_type=media_type, **options))

    @typed
    def watch(self, method: str, picture: Picture | None = None, /, **options: Any) -> Watch:
        """Explain as `explain` does, and tell meanwhile how far it is: `with` it, and iterate.

        Leaving early stops the work.
        """
        return Watch(self._portal, method, picture, options)

    def explain_many(
        self, method: str, pictures: Iterable[Picture], *, concurrency: int = 16, **options: Any
    ) -> Iterator[tuple[Picture, Explanation | HeatlensError]]:
        """Explain many pictures, and give each with what was found as soon as it is: an answer, or its error.

        Args:
            method: how.
            pictures: taken only as fast as they are worked on.
            concurrency: requests in flight, which share batches.
            options: as of `explain`.
        """
        waiting = iter(pictures)
        running: dict[Future[Explanation], Picture] = {}
        try:
            while True:
                for one in islice(waiting, max(1, concurrency) - len(running)):
                    running[self._portal.start(_asking(method, one, options))] = one
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    picture = running.pop(future)
                    try:
                        found: Explanation | HeatlensError = future.result()
                    except HeatlensError as error:
                        found = error
                    yield picture, found
        finally:
            for future in running:
                future.cancel()

    def predict(
        self,
        picture: Picture,
        *,
        top_k: int | None = None,
        model: str | None = None,
        precision: wire.Precision | None = None,
        priority: int | None = None,
        timeout_s: float | None = None,
    ) -> Predictions:
        """Return what the network sees; arguments are those of `AsyncClient.predict`.

        Raises:
            HeatlensError: whatever went wrong.
        """
        return self._portal.run(
            lambda client: client.predict(
                picture, top_k=top_k, model=model, precision=precision, priority=priority, timeout_s=timeout_s
            )
        )

    def compare(
        self, methods: Sequence[str | Mapping[str, Any]] | None, picture: Picture, **options: Any
    ) -> Comparison:
        """Hold methods against each other on one picture; arguments are those of `AsyncClient.compare`.

        Raises:
            HeatlensError: whatever went wrong with all of it; what ends one method is its `problem`.
        """
        return self._portal.run(lambda client: client.compare(methods, picture, **options))

    def methods(self) -> list[wire.MethodInfo]:
        """Return all methods: what each shows, needs and costs, and its parameters."""
        return self._portal.run(lambda client: client.methods())

    def models(self) -> list[wire.ModelSummary]:
        """Return all served models."""
        return self._portal.run(lambda client: client.models())

    def model(self, name: str) -> wire.ModelInfo:
        """Return one model in full: its version, input, layers and which methods apply to it.

        Raises:
            NotFound: there is none of that name.
        """
        return self._portal.run(lambda client: client.model(name))

    def layers(self, name: str) -> list[wire.LayerWire]:
        """Return a model's layers, in the order in which they answer.

        Raises:
            NotFound: there is none of that name.
        """
        return self._portal.run(lambda client: client.layers(name))

    def labels(self, name: str) -> list[str]:
        """Return the names of a model's outputs, in their order.

        Raises:
            NotFound: there is none of that name.
        """
        return self._portal.run(lambda client: client.labels(name))

    def colormaps(self) -> list[str]:
        """Return the names of all colour maps."""
        return self._portal.run(lambda client: client.colormaps())

    def version(self) -> wire.Version:
        """Return which build answers: its version, revision, PyTorch and device."""
        return self._portal.run(lambda client: client.version())

    def ready(self, model: str | None = None) -> bool:
        """Whether requests to a model, by default the default one, would be answered now.

        Raises:
            NotFound: there is none of that name.
        """
        return self._portal.run(lambda client: client.ready(model))


def _asking(method: str, picture: Picture, options: Any) -> Callable[[AsyncClient], Coroutine[Any, Any, Explanation]]:
    return lambda client: client.explain(method, picture, **options)


class Watch:
    """An explanation under way: iterate over its progress, then read its `result`."""

    def __init__(
        self, portal: Portal[AsyncClient], method: str, picture: Picture | None, options: dict[str, Any]
    ) -> None:
        self._portal = portal
        self._question = method, picture, options
        self._watch: AsyncWatch | None = None

    def __enter__(self) -> Self:
        method, picture, options = self._question

        async def enter(client: AsyncClient) -> AsyncWatch:
            return await client.watch(method, picture, **options).__aenter__()

        self._watch = self._portal.run(enter)
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the work, if it has not ended."""
        watch = self._entered()
        self._portal.run(lambda _: watch.__aexit__(*error))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Progress:
        watch = self._entered()

        async def following(_: AsyncClient) -> Progress | None:  # a future cannot raise StopAsyncIteration
            return await anext(watch, None)

        if (found := self._portal.run(following)) is None:
            raise StopIteration
        return found

    @property
    def result(self) -> Explanation:
        """The answer, once there is no more progress.

        Raises:
            RuntimeError: it is not there yet.
        """
        return self._entered().result

    def finish(self) -> Explanation:
        """Wait for the end, and return the answer.

        Raises:
            HeatlensError: whatever went wrong.
        """
        watch = self._entered()
        return self._portal.run(lambda _: watch.finish())

    def _entered(self) -> AsyncWatch:
        if self._watch is None:
            raise RuntimeError("enter it first: with hl.watch(...) as run")
        return self._watch

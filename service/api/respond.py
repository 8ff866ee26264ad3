"""Running blocking work off the event loop, and turning its answer into what the client accepts."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import orjson
from fastapi import Request
from starlette.responses import Response, StreamingResponse

from service import spans
from service.api import problems
from service.api.context import Context
from service.engine.scheduler.admission import SMALL_PASSES
from service.engine.scheduler.run import Run
from service.errors import Cancelled, ServiceError
from service.pipeline import Answer

T = TypeVar("T")
JSON, PNG, NPY, EVENTS = "application/json", "image/png", "application/x-npy", "text/event-stream"
_PROGRESS_S, _PARTIAL_S = 0.1, 0.5  # least time between two events of a kind


def accepted(request: Request) -> str:
    """Return the media type to answer with: the one of ours that `Accept` prefers, JSON by default."""
    best, best_weight = JSON, 0.0
    for item in request.headers.get("accept", "*/*").split(","):
        kind, _, parameters = item.strip().partition(";")
        weight = 1.0
        for parameter in parameters.split(";"):
            name, _, value = parameter.strip().partition("=")
            if name == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        offered = {"*/*": JSON, "application/*": JSON, "image/*": PNG}.get(kind.strip().lower(), kind.strip().lower())
        if offered in (JSON, PNG, NPY, EVENTS) and weight > best_weight:
            best, best_weight = offered, weight
    return best


def encode(answer: Answer, kind: str) -> bytes:
    """Serialise an answer; blocks."""
    if kind == PNG:
        return answer.image()
    if kind == NPY:
        return answer.array()
    return json(answer.body)


def json(body: Any) -> bytes:
    """Serialise to JSON; NumPy arrays become lists."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


async def in_pool(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Run blocking work in a bounded pool."""
    return await asyncio.get_running_loop().run_in_executor(pool, work)


def start(service: Context, run: Run, passes: int, work: Callable[[], T]) -> "asyncio.Future[T]":
    """Admit a request and let the pool work for it; it counts as waiting until that has ended.

    Raises:
        Overloaded: too much waits already.
    """
    service.device.admission.admit(run, passes)
    trace = spans.current()

    def checked() -> T:
        run.check()  # it may have waited for a thread until nobody wanted it any more
        try:
            with spans.span("work", trace):
                return work()
        except ServiceError as error:
            raise error.with_traceback(None) from None  # its frames hold the picture
        finally:
            if run.cancelled.is_set():
                _forget(run)

    pool = service.pool if passes <= SMALL_PASSES else service.long_pool
    try:
        future = pool.submit(checked)
    except RuntimeError:
        service.device.admission.release(run)
        raise
    future.add_done_callback(lambda _: service.device.admission.release(run))
    return asyncio.wrap_future(future)


async def gone(request: Request) -> None:
    """Return once the client has disconnected; the body has to be read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def complete(request: Request, service: Context, run: Run, future: "asyncio.Future[T]") -> T:
    """Wait for the work's result, or stop the work when the client disconnects or its time is up.

    Raises:
        Cancelled: nobody waits any more.
        DeadlineExceeded: `timeout_s` has run out, be it before a thread was free.
    """
    watching = asyncio.ensure_future(gone(request))
    try:
        await _any(future, watching, timeout_s=run.time_left_s)
        if future.done():
            return future.result()
        raise Cancelled("the client has disconnected") if watching.done() else run.late()
    finally:
        watching.cancel()
        _abandon(service, run, future)


def _abandon(service: Context, run: Run, future: "asyncio.Future[Any]") -> None:
    """Free what a request holds."""
    if future.done():
        _forget(run)
    else:
        service.device.cancel(run)
        future.cancel()


def _forget(run: Run) -> None:
    """Let go of a request's picture: what sketches its maps refers to it, and back to the run."""
    run.partial = run.sketch = None


async def _any(*futures: "asyncio.Future[Any]", timeout_s: float | None = None) -> None:
    """Wait for the first of some futures, or for so long."""
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


def event(name: str, data: bytes) -> bytes:
    """Return one server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def stream(request: Request, service: Context, run: Run, passes: int, work: Callable[[], bytes]) -> Response:
    """Answer with events: `progress` and, where the method can, `partial` maps; then `result` or `error`.

    Raises:
        Overloaded: too much waits already.
    """
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def progress() -> None:
        with suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(changed.set)

    run.progress = progress
    future = start(service, run, passes, work)

    async def events() -> AsyncIterator[bytes]:
        watching = asyncio.ensure_future(gone(request))
        told = drawn = time.monotonic()
        try:
            while not future.done():
                waiting = asyncio.ensure_future(changed.wait())
                try:
                    await _any(future, watching, waiting, timeout_s=run.time_left_s)
                finally:  # the response may be cancelled here, when its client has gone
                    waiting.cancel()
                if watching.done():
                    return
                if not (future.done() or changed.is_set()):
                    yield _error(request, run.late())
                    return
                changed.clear()
                if future.done() or time.monotonic() - told < _PROGRESS_S:
                    continue
                told = time.monotonic()
                state = {"rows_done": run.done, "rows_total": run.expected, "seconds_left": run.seconds_left}
                yield event("progress", orjson.dumps(state))
                if run.partial is not None and run.sketch is not None and told - drawn >= _PARTIAL_S:
                    maps = await in_pool(service.pool, run.partial)
                    drawn = time.monotonic()
                    if maps is not None:
                        yield event("partial", json(state | {"maps": maps}))
            yield _last(request, future)
        finally:
            watching.cancel()
            _abandon(service, run, future)

    return StreamingResponse(events(), media_type=EVENTS, headers={"cache-control": "no-store"})


def _last(request: Request, future: "asyncio.Future[bytes]") -> bytes:
    error = future.exception()
    return event("result", future.result()) if error is None else _error(request, error)


def _error(request: Request, error: BaseException) -> bytes:
    return event("error", problems.document(problems.known(request.url.path, error), request.url.path))

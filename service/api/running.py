"""Running blocking work off the event loop: in a thread of a pool, watched until it ends or nobody waits for it."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from service import spans
from service.answer import Answer
from service.api import formats, problems
from service.api.context import Context
from service.api.formats import Format
from service.api.observing.recording import record
from service.comparison.beside import measured
from service.comparison.numbers import rows
from service.engine.scheduler.estimate.ledger import SMALL_PASSES
from service.engine.scheduler.run import Run
from service.errors import Cancelled, ServiceError
from service.fair.threads import Threads
from service.pipeline import Plan, Seen, geometry

T = TypeVar("T")
K = TypeVar("K", covariant=True)
WHOLE = "heatlens.whole"
"""In a scope: what is called once all of an answer is there, so that none of it waits for a client to take some."""
_PROGRESS_S, _PARTIAL_S = 0.1, 0.5  # least time between two events of a kind
_LEAVE_S = 1.0  # in which a stream ends by itself once its client has gone
_SILENCE_S = 15.0  # after which a stream says that it is there: proxies end what is silent for a minute
_THERE = b": still there\n\n"


async def in_pool(pool: Threads, work: Callable[[], T], caller: Hashable = "") -> T:
    """Run blocking work in a bounded pool, for a caller."""
    return await asyncio.wrap_future(pool.submit_for(caller, work))


class Kept(Protocol[K]):
    """A function without arguments whose result is kept (`functools.cache`)."""

    def __call__(self) -> K:
        """Return the result."""

    def cache_info(self) -> Any:
        """Return what is kept."""


async def made(cached: Kept[T]) -> T:
    """Return what is made once and kept: in a thread where it is not there yet, as others wait for the event loop."""
    return cached() if cached.cache_info().currsize else await asyncio.to_thread(cached)


class Work:
    """A question that is planned, on its way to the bytes of its answer."""

    def __init__(self, service: Context, plan: Plan, run: Run, format: Format) -> None:
        self.service, self.plan, self.run, self.format = service, plan, run, format
        # Where nobody is shown the numbers, they are not found.
        self.measures = plan.ask.faithfulness and format.needs.maps is None
        self.passes = plan.passes + (rows(max(1, len(plan.targets))) if self.measures else 0)
        self._seen: Seen | None = None

    @classmethod
    def of(cls, service: Context, ask: Any, run: Run, format: Format) -> "Work":
        """Plan a question.

        Raises:
            ServiceError: it does not fit its model.
        """
        return cls(service, service.pipeline.plan(ask, format.needs), run, format)

    def start(self) -> "asyncio.Future[bytes]":
        """Be admitted, and let a pool work; it counts as waiting until that has ended.

        Raises:
            Overloaded: too much waits already.
        """
        admission = self.service.device.admission
        admission.admit(self.run, self.passes - self.plan.passes + self.plan.expected, self.plan.kind)
        pool = self.service.pool if self.passes <= SMALL_PASSES else self.service.long_pool
        trace = spans.current()
        try:
            future = pool.submit_for(self.run.caller, lambda: self._checked(trace))
        except RuntimeError:
            admission.release(self.run)
            raise
        future.add_done_callback(lambda _: admission.release(self.run))
        return asyncio.wrap_future(future)

    def _checked(self, trace: Any) -> bytes:
        self.run.check()  # it may have waited for a thread until nobody wanted it any more
        try:
            with spans.span("work", trace):
                try:
                    return self._encoded()
                finally:
                    self.run.usage.tell()
        except ServiceError as error:
            raise error.with_traceback(None) from None  # its frames hold the picture
        finally:
            if self.run.cancelled.is_set():
                self.forget()

    def _encoded(self) -> bytes:
        pipeline, plan, run = self.service.pipeline, self.plan, self.run
        self._seen = seen = pipeline.see(plan, run)
        explanation = pipeline.explain(plan, seen, run)
        numbers = measured(pipeline, plan, seen, explanation, run) if self.measures else None
        answer = pipeline.answer(plan, seen, explanation, run, self.format.needs)
        answer = answer if numbers is None else numbers(answer)
        with run.usage.stage("encode"), self._room([answer]):
            return self.format.encode(answer)

    def _room(self, answers: Iterable[Answer]) -> AbstractContextManager[None]:
        """Have room for the bytes of what is answered while they are made; few need none."""
        size = sum(formats.written(answer, self.format.needs) for answer in answers)
        return self.service.pipeline.codec.room.large(size, self.run.check, self.run.caller)

    @property
    def sketches(self) -> bool:
        """Whether there may be rough maps to show."""
        return self.run.sketch is not None and self._seen is not None

    def partial(self, progress: dict[str, Any]) -> bytes | None:
        """Return a `wire.Partial` with this progress; None where there is nothing to show. Blocks."""
        if (seen := self._seen) is None:
            return None
        sketched = self.service.pipeline.sketch(self.plan, seen, self.run, self.format.needs)
        if sketched is None:
            return None
        shown, error_bound = sketched
        image = geometry(seen.picture)
        found = {
            "image": image.model_dump() if image is not None else None,
            "maps": formats.maps(shown, self.plan.ask.output),
            "error_bound": error_bound,
        }
        return formats.dumps(progress | found)

    def abandon(self, future: "asyncio.Future[Any]") -> None:
        """Free what the request holds; stop the work that is still under way."""
        if future.done():
            self.forget()
        else:
            self.service.device.cancel(self.run)
            future.cancel()

    def forget(self) -> None:
        """Let go of the picture: what sketches its maps refers to it, and back to the run."""
        self._seen = self.run.sketch = None


async def gone(request: Request) -> None:
    """Return once the client has disconnected; the body has to be read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def complete(request: Request, work: Work) -> bytes:
    """Start work and wait for its result; stop it when the client disconnects or its time is up.

    Raises:
        Overloaded: too much waits already.
        Cancelled: nobody waits any more.
        DeadlineExceeded: `timeout_s` has run out, be it before a thread was free.
    """
    future = work.start()
    watching = asyncio.ensure_future(gone(request))
    try:
        await _any(future, watching, timeout_s=work.run.time_left_s)
        if future.done():
            return future.result()
        raise Cancelled("the client has disconnected") if watching.done() else work.run.late()
    finally:
        watching.cancel()
        work.abandon(future)


async def _any(*futures: "asyncio.Future[Any]", timeout_s: float | None = None) -> None:
    """Wait for the first of some futures, or for so long."""
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


def event(name: str, data: bytes, number: int) -> bytes:
    """Return one server-sent event, which is the so-manieth of its stream."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, name.encode(), data)


def state(run: Run) -> dict[str, Any]:
    """Return how far a request is, as `wire.Progress` has it."""
    done, total = run.done, run.expected
    passes = {"passes_done": done, "passes_total": total}
    return {"rows_done": done, "rows_total": total, **passes, "seconds_left": run.seconds_left}


# The second one is for nginx, which else holds events back until there are some kilobytes of them.
_UNBUFFERED = {"cache-control": "no-store", "x-accel-buffering": "no"}


class Events(StreamingResponse):
    """Answers by events, and closes what makes them as soon as nobody takes any more.

    Events end by themselves where their client has gone. To be cancelled for that, as other answers are, would leave
    the frames of all that was under way, the picture among what they hold, to some later search for garbage.
    """

    def __init__(
        self, events: AsyncGenerator[bytes, None], media_type: str, end: Callable[[], None] = lambda: None
    ) -> None:
        """Take the events, and what ends the work behind them, also where none of them was asked for."""
        super().__init__(events, media_type=media_type, headers=_UNBUFFERED)
        self._events, self._end = events, end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, until the last one or until the client has gone."""
        sending = asyncio.ensure_future(self.stream_response(send))
        leaving = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await _any(sending, leaving)
            if leaving.done():
                await _any(sending, timeout_s=_LEAVE_S)
            if sending.done():
                sending.result()
        finally:
            leaving.cancel()
            sending.cancel()  # where what it writes to tells nobody that the client has gone
            await _any(sending)
            await self._events.aclose()
            self._end()


def stream(request: Request, work: Work) -> Response:
    """Answer with events: `progress` and, where the method can, `partial` maps; then `result` or `error`.

    Raises:
        Overloaded: too much waits already.
    """
    loop, changed, run = asyncio.get_running_loop(), asyncio.Event(), work.run

    def progress() -> None:
        with suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(changed.set)

    run.progress = progress
    future = work.start()
    if (whole := request.scope.get(WHOLE)) is not None:
        future.add_done_callback(lambda _: whole())

    async def events() -> AsyncGenerator[bytes, None]:
        watching = asyncio.ensure_future(gone(request))
        told = drawn = time.monotonic()
        numbers = itertools.count(1)
        try:
            while not future.done():
                waiting = asyncio.ensure_future(changed.wait())
                try:
                    left_s = run.time_left_s
                    await _any(
                        future, watching, waiting, timeout_s=_SILENCE_S if left_s is None else min(_SILENCE_S, left_s)
                    )
                finally:  # the response may be cancelled here, when its client has gone
                    waiting.cancel()
                if watching.done():
                    return
                if not (future.done() or changed.is_set()):
                    if run.time_left_s == 0:
                        yield _error(request, run.late(), next(numbers))
                        return
                    yield _THERE
                changed.clear()
                if future.done() or time.monotonic() - told < _PROGRESS_S:
                    continue
                told = time.monotonic()
                now = state(run)
                yield event("progress", formats.dumps(now), next(numbers))
                if work.sketches and told - drawn >= _PARTIAL_S:
                    drawing = asyncio.ensure_future(in_pool(work.service.pool, partial(work.partial, now), run.caller))
                    drawing.add_done_callback(_drawn)
                    await _any(drawing, watching, future, timeout_s=run.time_left_s)
                    drawn = time.monotonic()
                    if (rough := _drawn(drawing)) is not None:
                        yield event("partial", rough, next(numbers))
            yield _last(request, future, next(numbers))
        finally:
            watching.cancel()

    return Events(events(), work.format.media_type, lambda: work.abandon(future))


def _drawn(drawing: "asyncio.Future[Any]") -> Any:
    """Return rough maps; None where they are not drawn, or cannot be: what is wrong, the answer says."""
    return drawing.result() if drawing.done() and not drawing.cancelled() and drawing.exception() is None else None


def _last(request: Request, future: "asyncio.Future[bytes]", number: int) -> bytes:
    error = future.exception()
    return event("result", future.result(), number) if error is None else _error(request, error, number)


def _error(request: Request, error: BaseException, number: int) -> bytes:
    known = problems.known(request.url.path, error)
    record(request).failed(known)  # it began with 200, and is counted as what it ended in
    return event("error", problems.document(known, request.url.path), number)

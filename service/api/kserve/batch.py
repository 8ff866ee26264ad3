"""Several questions in one request: a `Run` each, so that they share batches, one deadline, and one error for all."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from fastapi import Request

from service.api.context import context
from service.api.formats import Format
from service.api.observing.recording import record
from service.api.routes import begin
from service.api.running import Work, gone, in_pool
from service.ask import Ask
from service.comparison.pieces import add_up, piece
from service.engine.scheduler.run import Run
from service.engine.scheduler.usage import Usage
from service.errors import Cancelled, FieldError, InvalidParameter, ServiceError
from service.rendering.bounds import Together

T = TypeVar("T")
MOST = 256  # questions in one request
_COPIES = 4  # of its answers that are held while a request's is made of them, at most


@dataclass(frozen=True)
class Question:
    """One of a request's questions.

    ask: it.
    format: what its answer becomes.
    pointer: from a pointer into the `Ask`'s fields to one into the request as it was sent.
    """

    ask: Ask
    format: Format
    pointer: Callable[[str], str]


@contextmanager
def placed(pointer: Callable[[str], str]) -> Iterator[None]:
    """Let errors point into the request as it was sent."""
    try:
        yield
    except ServiceError as error:
        for one in error.errors:
            error.detail = error.detail.replace(f"{one.pointer}: ", f"{pointer(one.pointer)}: ", 1)
        error.errors = tuple(FieldError(pointer(one.pointer), one.detail) for one in error.errors)
        raise


def bounded(count: int, pointer: str) -> None:
    """Refuse more questions than one request may hold.

    Raises:
        InvalidParameter: there are more, or none.
    """
    if not count:
        raise InvalidParameter.at(pointer, "there is no picture in it; send at least one")
    if count > MOST:
        raise InvalidParameter.at(pointer, f"{count} explanations or predictions in one request; send at most {MOST}")


async def answered(request: Request, questions: Sequence[Question]) -> list[bytes]:
    """Answer all questions of a request, in their order; together they are bounded as one answer is.

    Raises:
        ServiceError: the first one that any of them meets; the others are stopped.
    """
    whole = record(request).run
    if whole is None:
        raise ValueError("a question is answered after its body was read")
    # To plan one takes little, and a request has many.
    works = await in_pool(context(request).body_pool, lambda: _begun(request, questions, whole), whole.caller)
    last = max((work.run for work in works), key=lambda run: run.time_left_s or 0.0)
    started: list[tuple[Work, asyncio.Future[bytes]]] = []
    watching = asyncio.ensure_future(gone(request))
    tasks: list[asyncio.Task[bytes]] = []
    try:
        for work in works:
            started.append((work, work.start()))
        tasks = [
            asyncio.create_task(_placed(future, question.pointer))
            for (_, future), question in zip(started, questions, strict=True)
        ]
        together = asyncio.gather(*tasks)
        # Where nobody waits any more, nobody asks how it has ended either, which asyncio takes for an oversight.
        together.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        await asyncio.wait((together, watching), timeout=last.time_left_s, return_when=asyncio.FIRST_COMPLETED)
        if together.done():
            return list(together.result())
        together.cancel()
        raise Cancelled("the client has disconnected") if watching.done() else last.late()
    finally:
        watching.cancel()
        for task in tasks:
            task.cancel()
        for work, future in started:
            work.abandon(future)
        for work in works:
            add_up(whole, work.run)


def _begun(request: Request, questions: Sequence[Question], whole: Run) -> list[Work]:
    """Plan all questions, each with a run of its own, which is called ID/0, ID/1 and so on."""
    works, together = [], Together()
    for i, question in enumerate(questions):
        run = piece(whole)
        run.id = f"{whole.id}/{i}"
        run.usage = Usage()  # questions are worked on at a time: each has a timeline of its own
        with placed(question.pointer):
            needs = replace(question.format.needs, together=together)
            works.append(begin(request, question.ask, replace(question.format, needs=needs), run))
    return works


async def written(request: Request, parts: Sequence[bytes], encode: Callable[[], T]) -> T:
    """Put a request's answers together in a thread, with room for what that takes."""
    service, run = context(request), record(request).run
    if run is None:
        raise ValueError("a question is answered after its body was read")
    size, room = _COPIES * sum(map(len, parts)), service.pipeline.codec.room

    def work() -> T:
        with run.usage.stage("encode"), room.large(size, run.check, run.caller):
            return encode()

    return await in_pool(service.pool, work, run.caller)


async def _placed(future: "asyncio.Future[bytes]", pointer: Callable[[str], str]) -> bytes:
    with placed(pointer):
        return await future

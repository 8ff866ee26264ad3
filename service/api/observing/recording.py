"""A record of each request: its id, its span, and how it ended, as a line of log and in metrics."""

import asyncio
import logging
import re
import time
import uuid
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import spans
from service.api import problems
from service.api.edge.addresses import HEALTH
from service.api.observing import tracing
from service.engine.scheduler.run import Run
from service.errors import Draining, ServiceError
from service.metrics import Metrics

log = logging.getLogger("heatlens.access")
REFUSED = "heatlens.refused"  # in a scope: the error that a request is answered by, unread
_VERB = 32  # letters of what may be no verb at all
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",  # pages bring their own
}
_STAGES = ("read", "decode", "queue", "device", "render", "encode")


@dataclass
class Record:
    """What is known of one request, filled in as it goes along."""

    id: str
    method: str = "none"  # of explanation, or `predict`: never what a client made up
    model: str = "none"
    version: str = ""  # of the model
    run: Run | None = None
    status: int = 499  # until an answer begins: the client has gone
    error: str | None = None
    error_status: int | None = None  # of that error, which a stream ends in after it began with 200
    refused: str | None = None  # why it was turned away
    bytes_out: int = 0
    gone: bool = False  # the client went away before the answer's end
    first_event_s: float | None = None  # from the request to the first event, of a stream

    @property
    def outcome(self) -> int:
        """The status that it is counted by: of a stream that ended in an error, that error's."""
        return self.error_status or self.status

    def failed(self, error: ServiceError) -> None:
        """Note the error that it is answered by."""
        self.error, self.error_status = error.type, error.status
        self.refused = error.reason if error.status in (429, 503) else None


def record(request: Request) -> Record:
    """Return the record of a request."""
    found: Record = request.scope["heatlens"]
    return found


class Recording:
    """Gives each request an id and a span, and writes down how it ended."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        known = Record(given if _ID.fullmatch(given) else uuid.uuid4().hex)
        scope["heatlens"] = known
        started = time.perf_counter()
        begun = ended = streams = False

        async def sending(message: Message) -> None:
            nonlocal begun, ended, streams
            if message["type"] == "http.response.start":
                begun = True
                known.status = message["status"]
                answer = MutableHeaders(scope=message)
                streams = answer.get("content-type", "").startswith("text/event-stream")
                self._add_headers(answer, known)
            elif message["type"] == "http.response.body":
                body = message.get("body", b"")
                known.bytes_out += len(body)
                ended = not message.get("more_body", False)
                if streams and known.first_event_s is None and body and not body.startswith(b":"):  # a comment
                    known.first_event_s = time.perf_counter() - started
            await send(message)

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not ended:
                known.gone = True
            return message

        with spans.span(tracing.verb(scope), spans.received(headers), serving=True) as span:
            try:
                if span is not None:
                    span.set_attributes(tracing.received(scope, headers))
                if REFUSED in scope:
                    raise scope.pop(REFUSED)  # by the connection, which has read no request
                await self.app(scope, receiving, sending)
            except Exception as error:
                answer = self._failed(known, error, scope["path"])
                if begun:
                    raise
                await answer(scope, receiving, sending)
            except asyncio.CancelledError:  # the server ends, and waits no longer
                said = Draining("the server has stopped before the request was answered; send it again")
                answer = self._failed(known, said, scope["path"])
                if not begun:
                    await answer(scope, receiving, sending)
                raise
            finally:
                if span is not None:
                    words = {"method": known.method, "model": known.model, "model.version": known.version}
                    usage = known.run.usage if known.run is not None else None
                    tracing.answered(span, scope, (known.status, known.outcome), known.error, words, usage)
                trace = spans.ids()["trace_id"] if spans.is_sampled(span) else None
                self._count(known, scope["path"], time.perf_counter() - started, trace)
                self._write(known, scope, headers, time.perf_counter() - started)

    @staticmethod
    def _failed(known: Record, error: Exception, path: str) -> Response:
        """Write down how a request failed, and return what says so.

        No name of the frame that caught it holds the error, as the error holds that frame: both would stay until
        Python searches everything that lives.
        """
        shown = problems.known(path, error)
        known.failed(shown)
        return problems.problem(shown, path)

    @staticmethod
    def _add_headers(headers: MutableHeaders, known: Record) -> None:
        headers["x-request-id"] = known.id
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
        if known.run is not None:
            stages = known.run.usage.stages | {"queue": known.run.usage.queue_s, "device": known.run.usage.device_s}
            timing = ", ".join(f"{s};dur={stages[s] * 1e3:.1f}" for s in _STAGES if stages.get(s))
            if timing:
                headers["server-timing"] = timing

    def _count(self, known: Record, path: str, seconds: float, trace: str | None) -> None:
        """Count a request that has ended; by its trace, where there is one, it can be found from what it counts for."""
        metrics, method, model = self.metrics, known.method, known.model
        example = {"trace_id": trace} if trace is not None else None
        metrics.requests.labels(method, model, str(known.outcome)).inc()
        metrics.request_seconds.labels(method, model).observe(seconds, example)
        if known.first_event_s is not None:
            metrics.first_event_seconds.labels(method).observe(known.first_event_s, example)
        if known.refused is not None and path not in HEALTH:  # what probes are told is no refusal
            metrics.refused.labels(known.refused).inc()
        if known.gone or known.status == 499:
            metrics.cancelled.labels(method).inc()
        if (run := known.run) is not None:
            render = run.usage.stages.get("render", 0.0) + run.usage.stages.get("encode", 0.0)
            metrics.queue_seconds.labels(method, model).observe(run.usage.queue_s, example)
            metrics.device_seconds.labels(method).observe(run.usage.device_s)
            metrics.render_seconds.labels(method).observe(render)
            metrics.rows_avoided.labels(method).inc(run.usage.avoided)
            if run.usage.cache != "none":
                metrics.cache_lookups.labels(run.usage.cache).inc()

    @staticmethod
    def _write(known: Record, scope: Scope, headers: Headers, seconds: float) -> None:
        line: dict[str, Any] = {
            "id": known.id,
            "client": scope["client"][0] if scope.get("client") else None,
            "verb": scope["method"][:_VERB],
            "path": scope["path"][: problems.LONGEST],
            "status": known.status,
            "seconds": round(seconds, 4),
            "bytes_in": headers.get("content-length"),
            "bytes_out": known.bytes_out,
            "error": known.error,
        }
        if (run := known.run) is not None:
            line |= {
                "method": known.method,
                "model": known.model,
                "forwards": run.usage.forwards,
                "rows_avoided": run.usage.avoided,
                "cache": run.usage.cache,
                "queue_s": round(run.usage.queue_s, 4),
                "device_s": round(run.usage.device_s, 4),
            }
        quiet = scope["path"] in (*HEALTH, "/metrics") and known.status == 200
        log.log(logging.DEBUG if quiet else logging.INFO, "request", extra=line)

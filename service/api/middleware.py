"""Around every request: its id, who may ask, a line of log, metrics, headers. Pure ASGI, so that bodies stream."""

import hashlib
import hmac
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import spans
from service.api import problems
from service.api.bodies.body import SMALL_BODY
from service.api.callers.callers import most_urgent, share
from service.api.callers.keys import KEY, Key
from service.api.edge.addresses import HEALTH, PAGES, named
from service.engine.scheduler.run import Run
from service.errors import Forbidden, Overloaded, ServiceError, Unauthorized
from service.metrics import Metrics

log = logging.getLogger("heatlens.access")
REFUSED = "heatlens.refused"  # in a scope: the error that a request is answered by, unread
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
    run: Run | None = None
    status: int = 499  # until an answer begins: the client has gone
    error: str | None = None
    bytes_out: int = 0


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
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                known.status = message["status"]
                self._add_headers(MutableHeaders(scope=message), known)
            elif message["type"] == "http.response.body":
                known.bytes_out += len(message.get("body", b""))
            await send(message)

        with spans.span(f"{scope['method']} {named(scope['path'])}", spans.received(headers)) as span:
            try:
                if (refused := scope.get(REFUSED)) is not None:
                    raise refused  # by the connection, which has read no request
                await self.app(scope, receive, sending)
            except Exception as error:
                shown = problems.known(scope["path"], error)
                known.error = shown.type
                if begun:
                    raise
                await problems.problem(shown, scope["path"])(scope, receive, sending)
            finally:
                if span is not None:
                    span.set_attributes({"http.response.status_code": known.status, "heatlens.model": known.model})
                self._write(known, scope, headers, time.perf_counter() - started)

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

    def _write(self, known: Record, scope: Scope, headers: Headers, seconds: float) -> None:
        run, metrics = known.run, self.metrics
        metrics.requests.labels(known.method, known.model, str(known.status)).inc()
        metrics.request_seconds.labels(known.method).observe(seconds)
        line = {
            "id": known.id,
            "client": scope["client"][0] if scope.get("client") else None,
            "verb": scope["method"],
            "path": scope["path"],
            "status": known.status,
            "seconds": round(seconds, 4),
            "bytes_in": headers.get("content-length"),
            "bytes_out": known.bytes_out,
            "error": known.error,
        }
        if run is not None:
            render = run.usage.stages.get("render", 0.0) + run.usage.stages.get("encode", 0.0)
            metrics.queue_seconds.labels(known.method).observe(run.usage.queue_s)
            metrics.device_seconds.labels(known.method).observe(run.usage.device_s)
            metrics.render_seconds.labels(known.method).observe(render)
            metrics.rows_avoided.labels(known.method).inc(run.usage.avoided)
            if run.usage.cache != "none":
                metrics.cache_lookups.labels(run.usage.cache).inc()
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


class Refusing:
    """Turns work away when there is too much of it, before anything is spent on its route and its body.

    What a refusal costs is taken from those that were let in, and there may be many times more refusals than answers.
    """

    def __init__(self, app: ASGIApp, work: Callable[[str], str | None]) -> None:
        """Take what says of a path whether it means work, and under which name that is counted."""
        self.app, self.work = app, work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        method = self.work(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if method is not None:
            scope["heatlens"].method = method
            try:
                service = scope["app"].state.context
                urgent, small = most_urgent(scope, service.settings.max_priority), _is_small(scope)
                service.device.admission.check_room(share(scope), urgent, small=small)
            except ServiceError as error:
                await refused(error, {}, scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_small(scope: Scope) -> bool:
    """Whether a body is said to be so small that to read it costs next to nothing."""
    said = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return said.isdigit() and len(said) < 10 and int(said) <= SMALL_BODY


async def refused(error: ServiceError, headers: Mapping[str, str], scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with an error, from a place that the application does not get to."""
    scope["heatlens"].error = error.type
    response = problems.problem(error, scope["path"])
    response.headers.update(headers)
    await response(scope, receive, send)


class Bodies:
    """Bounds what the bodies of all requests together take, from their first byte until the answer's last one.

    One caller may take half of it, and a part is left for small bodies: whoever holds back the ends of a few large
    ones keeps nobody else out.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes
        self.held = 0
        self.by: Counter[str] = Counter()  # caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        own, caller = 0, share(scope)

        async def receiving() -> Message:
            nonlocal own
            message = await receive()
            size = len(message.get("body", b""))
            if size:
                self._check(caller, own + size, size)
            own += size
            self.held += size
            self.by[caller] += size
            return message

        try:
            await self.app(scope, receiving, send)
        finally:
            self.held -= own
            self.by[caller] -= own
            if not self.by[caller]:
                del self.by[caller]

    def _check(self, caller: str, own: int, size: int) -> None:
        """Refuse what is one piece too much of a body of which so many bytes are there.

        Raises:
            Overloaded: the bodies under way, or those of one caller, leave no room.
        """
        small = own <= SMALL_BODY
        if self.held + size > self.max_bytes - (0 if small else self.max_bytes // 16):
            said = "the bodies of requests under way fill the"
        elif not small and caller and self.by[caller] + size > self.max_bytes // 2:
            said = "the bodies of your requests under way fill half of the"
        else:
            return
        raise Overloaded(
            f"{said} {self.max_bytes / 2**20:g} MiB set aside for them; send the request again later, or a smaller "
            "picture",
            retry_after_s=2,
        )


class Keys:
    """Lets only callers with one of the bearer keys in.

    Health is for everybody, and so are the pages and the contract: they tell nothing of models or callers, and a
    browser can send no key before it has a page to ask for it.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[Key]) -> None:
        self.app = app
        self.digests = [(_digest(key.secret.encode()), key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        if scope["type"] == "http" and not _is_open(scope):
            sent = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            kind, _, key = sent.partition(b" ")
            given = _digest(key.strip())
            # Every key is compared, each in constant time: how long it takes tells nothing about them.
            matches = [known for digest, known in self.digests if hmac.compare_digest(given, digest)]
            if kind.lower() != b"bearer" or not matches:
                error = Unauthorized("send one of the server's keys in the header: Authorization: Bearer KEY")
                await refused(error, {"www-authenticate": "Bearer"}, scope, receive, send)
                return
            scope[KEY] = matches[0]
        await self.app(scope, receive, send)


def _is_open(scope: Scope) -> bool:
    """Whether a request needs no key."""
    path, reads = scope["path"], scope["method"] in ("GET", "HEAD")
    return path in HEALTH or (reads and (path in PAGES or path.startswith("/ui/")))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class CrossSite:
    """Refuses work that a page of another site sends from somebody's browser.

    A form may send multipart to any address that the browser reaches, without asking first; who sent it, browsers say
    by themselves (Fetch Metadata, `Sec-Fetch-Site`).
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        """Take the origins whose pages may ask."""
        self.app, self.origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            headers = Headers(scope=scope)
            allowed = "*" in self.origins or headers.get("origin") in self.origins
            if headers.get("sec-fetch-site") == "cross-site" and not allowed:
                error = Forbidden("a page of another site sent this; its origin is not one of HEATLENS_CORS_ORIGINS")
                await refused(error, {}, scope, receive, send)
                return
        await self.app(scope, receive, send)

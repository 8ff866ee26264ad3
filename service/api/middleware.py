"""Around every request: who may ask, and how much at a time. Pure ASGI, so that bodies stream."""

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.api.bodies.body import SMALL_BODY
from service.api.callers.callers import most_urgent, share
from service.api.callers.keys import KEY, Key
from service.api.edge.addresses import HEALTH, PAGES
from service.api.origins import same_host
from service.errors import Forbidden, Overloaded, ServiceError, Unauthorized
from service.fair.portions import Portions

_SMALL_PART = 16  # of the memory for bodies, one part in so many is left for small ones


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
    scope["heatlens"].failed(error)
    response = problems.problem(error, scope["path"])
    response.headers.update(headers)
    await response(scope, receive, send)


class Bodies:
    """Bounds what the bodies of all requests together take, from their first byte until the answer's last one.

    A caller may take as much as it leaves free, and a part is left for small bodies: whoever holds back the ends of a
    few large ones keeps nobody else out, and no small one of its own.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes
        self.all, self.small = Portions(max_bytes, times=1), Portions(max_bytes // _SMALL_PART, times=1)

    @property
    def held(self) -> int:
        """Bytes of all bodies under way."""
        return self.all.held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        own, caller = 0, share(scope)

        async def receiving() -> Message:
            nonlocal own
            message = await receive()
            size = len(message.get("body", b""))
            if size:
                self._check(caller, own + size, size)
            self.all.take(caller, size)
            self.small.take(caller, _small(own + size) - _small(own))
            own += size
            return message

        try:
            await self.app(scope, receiving, send)
        finally:
            self.all.give(caller, own)
            self.small.give(caller, _small(own))

    def _check(self, caller: str, own: int, size: int) -> None:
        """Refuse what is one piece too much of a body of which so many bytes are there.

        Raises:
            Overloaded: the bodies under way, or those of one caller, leave no room.
        """
        room, own_room = self.all.fits(size + self.small.total), self.all.within(caller)
        if room and own_room:
            return
        if own <= SMALL_BODY and self.all.fits(size) and self.small.within(caller):
            return
        mine = room and not own_room
        said = f"the bodies of {'your ' if mine else ''}requests under way fill {'your part of ' if mine else ''}the"
        raise Overloaded(
            f"{said} {self.max_bytes / 2**20:g} MiB set aside for them; send the request again later, or a smaller "
            "picture",
            retry_after_s=2,
            reason="bodies",
        )


def _small(size: int) -> int:
    """Return what of a body's bytes counts as a small one's."""
    return size if size <= SMALL_BODY else 0


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
    by themselves (Fetch Metadata, `Sec-Fetch-Site`). Over plain HTTP they say it to this machine alone, and to others
    no more than the page's origin, which is then held against the name that the server is called by.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        """Take the origins whose pages may ask."""
        self.app, self.origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            headers = Headers(scope=scope)
            origin, site = headers.get("origin"), headers.get("sec-fetch-site")
            allowed = "*" in self.origins or origin in self.origins
            foreign = site == "cross-site" or (site is None and origin is not None and not same_host(origin, headers))
            if foreign and not allowed:
                error = Forbidden("a page of another site sent this; its origin is not one of HEATLENS_CORS_ORIGINS")
                await refused(error, {}, scope, receive, send)
                return
        await self.app(scope, receive, send)

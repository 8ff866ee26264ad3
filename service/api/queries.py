"""Parameters in an address, which nothing here reads: refused, as whoever sends them means something by them."""

from collections.abc import Collection
from urllib.parse import parse_qsl

from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.middleware import refused
from service.errors import FieldError, InvalidParameter

_TOLD = 20  # parameters that are named at most


class Queries:
    """Refuses what follows the question mark of an address that takes nothing there. Pure ASGI."""

    def __init__(self, app: ASGIApp, free: Collection[str]) -> None:
        """Take the paths where anything may follow."""
        self.app, self.free = app, free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        if scope["type"] == "http" and scope["query_string"] and scope["path"] not in self.free and _is_there(scope):
            error = unread(scope["query_string"].decode("latin-1"), sends=scope["method"] == "POST")
            await refused(error, {}, scope, receive, send)
            return
        await self.app(scope, receive, send)


def _is_there(scope: Scope) -> bool:
    """Whether anything answers at an address: else it is a 404, whatever follows."""
    return any(route.matches(scope)[0] is Match.FULL for route in scope["app"].routes)


def unread(query: str, *, sends: bool) -> InvalidParameter:
    """Return the error of an address with parameters, each with its pointer `/query/NAME`.

    Args:
        query: what follows the question mark.
        sends: whether the request has a body, where what is meant belongs.
    """
    remedy = "a request's fields go into its body" if sends else "leave it out"
    names = list(dict.fromkeys(name for name, _ in parse_qsl(query, keep_blank_values=True)))[:_TOLD]
    pointers = [f"/query/{name.replace('~', '~0').replace('/', '~1')}" for name in names]
    listed = ", ".join(map(repr, names)) or repr(query[:80])
    return InvalidParameter(
        f"this address takes no parameters ({listed}); {remedy}",
        errors=[FieldError(pointer, f"unknown parameter; {remedy}") for pointer in pointers],
    )

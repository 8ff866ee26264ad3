"""What an address may be: of no more than so many characters, and without parameters where nothing reads them."""

from collections.abc import Collection
from urllib.parse import parse_qsl

from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.middleware import refused
from service.errors import FieldError, InvalidParameter, NotFound, escaped, quoted

_TOLD = 20  # parameters that are named at most
_LONGEST = 256  # characters of an address that names something; an answer may repeat it
_READ = 4096  # characters of parameters


class Queries:
    """Refuses what follows the question mark of an address that takes nothing there. Pure ASGI.

    Whoever sends a parameter means something by it. An address that is longer than any is refused, too.
    """

    def __init__(self, app: ASGIApp, free: Collection[str]) -> None:
        """Take the paths where anything may follow, or where the route itself looks at it."""
        self.app, self.free = app, free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        if scope["type"] == "http" and len(scope["path"]) > _LONGEST:
            await refused(NotFound("there is nothing at so long an address; see /docs"), {}, scope, receive, send)
            return
        if scope["type"] == "http" and scope["query_string"] and scope["path"] not in self.free and _is_there(scope):
            error = unread(scope["query_string"].decode("latin-1"), sends=scope["method"] == "POST")
            await refused(error, {}, scope, receive, send)
            return
        if scope["type"] == "http" and len(scope["query_string"]) > _READ and _is_there(scope):
            said = (
                f"the address has {len(scope['query_string']):,} characters of parameters; at most {_READ:,} are read"
            )
            await refused(InvalidParameter(said), {}, scope, receive, send)
            return
        await self.app(scope, receive, send)


def _is_there(scope: Scope) -> bool:
    """Whether anything answers at an address: else it is a 404, whatever follows."""
    return any(route.matches(scope)[0] is Match.FULL for route in scope["app"].routes)


def unread(query: str, *, sends: bool, taken: str = "") -> InvalidParameter:
    """Return the error of an address with parameters, each with its pointer `/query/NAME`.

    Args:
        query: what follows the question mark.
        sends: whether the request has a body, where what is meant belongs.
        taken: the one parameter that the address takes.
    """
    remedy = "a request's fields go into its body" if sends else "leave it out"
    given = dict.fromkeys(
        name for name, _ in parse_qsl(query[:_READ], keep_blank_values=True) if name != taken or not taken
    )
    names = list(given)[:_TOLD]
    pointers = [f"/query/{escaped(name)}" for name in names]
    listed = ", ".join(map(quoted, names[:5])) or quoted(query)
    return InvalidParameter(
        f"this address takes no parameters{f' but {taken}' if taken else ''} ({listed}); {remedy}",
        errors=[FieldError(pointer, f"unknown parameter; {remedy}") for pointer in pointers],
    )

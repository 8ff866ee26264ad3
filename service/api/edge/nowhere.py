"""Requests that are for no address: what the server can do as a whole, and tunnels, which it opens to nowhere."""

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.middleware import refused
from service.errors import MethodNotAllowed

_VERBS = {"allow": "GET, HEAD, OPTIONS, POST"}


class Nowhere:
    """Answers `OPTIONS *` and `CONNECT` (RFC 9110, 9.3.7 and 9.3.6). Pure ASGI."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        verb, path = (scope["method"], scope["path"]) if scope["type"] == "http" else ("", "")
        if verb == "OPTIONS" and path == "*":
            await Response(status_code=204, headers=_VERBS)(scope, receive, send)
        elif verb == "CONNECT":
            error = MethodNotAllowed("this server is no proxy, and opens no tunnels; send it requests of its own")
            # What follows would be meant for whoever is at the other end of the tunnel, and is no request.
            await refused(error, {**_VERBS, "connection": "close"}, scope, receive, send)
        else:
            await self.app(scope, receive, send)

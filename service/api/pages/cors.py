"""Pages of other sites that may ask: what their browsers ask before they do (Fetch Standard, 3.2)."""

from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.middleware import refused
from service.errors import Forbidden, MalformedRequest

_OF_THE_BODY = ("content-length", "content-type")


class Cors(CORSMiddleware):
    """Starlette's, whose answers to what browsers ask beforehand are empty, or problems like all others."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        asked = headers.get("access-control-request-method")
        if asked is None or scope["method"] != "OPTIONS" or (page := headers.get("origin")) is None:
            await super().__call__(scope, receive, send)
            return
        found = self.preflight_response(Headers(scope=scope))
        said = {name: value for name, value in found.headers.items() if name not in _OF_THE_BODY}
        if found.status_code < 400:
            await Response(headers=said)(scope, receive, send)
        elif not self.is_allowed_origin(page):
            error = Forbidden("the page's origin is not one of HEATLENS_CORS_ORIGINS")
            await refused(error, said, scope, receive, send)
        else:
            error_ = MalformedRequest(
                f"pages may send {', '.join(self.allow_methods)} with the headers {', '.join(self.allow_headers)}"
            )
            await refused(error_, said, scope, receive, send)

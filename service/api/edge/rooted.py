"""The path under which a proxy shows the service: taken off, so that all within knows its own addresses only."""

from starlette.types import ASGIApp, Receive, Scope, Send

SLASHLESS = "heatlens.slashless"  # in a scope: whether its address is the path itself, without a slash behind it


class Rooted:
    """Takes requests under a path, and without it, as proxies may strip it or not. Pure ASGI, and outermost."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        """Take the path, as `/heatlens`; none: requests are taken as they come."""
        self.app, self.path = app, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        if self.path and scope["type"] == "http":
            inside = scope["path"].removeprefix(self.path)
            under = inside != scope["path"] and inside[:1] in ("", "/")
            path = (inside or "/") if under else scope["path"]
            # Whoever writes an address, as /docs that of the contract, writes it with what stands before it.
            scope = {**scope, "path": path, "raw_path": path.encode("latin-1", "replace"), "root_path": self.path}
            scope[SLASHLESS] = under and not inside
        await self.app(scope, receive, send)

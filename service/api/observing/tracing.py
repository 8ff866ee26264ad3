"""What a request's span is called, and what it says: OpenTelemetry's stable conventions for HTTP, and our own words."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from service import spans
from service.engine.scheduler.usage import Usage

_VERBS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_EXPLAIN = "/explain/"
_LONGEST = 256  # characters of what a client sent
_PORT = 5  # digits of one


def verb(scope: Scope) -> str:
    """Return a request's method, of those that there are; what a client made up is `_OTHER`."""
    return scope["method"] if scope["method"] in _VERBS else "_OTHER"


def route(scope: Scope) -> str | None:
    """Return the template of the address that a request went to, as `/models/{name}`; None where it is none of ours.

    What was turned away before its route was looked up has one, too.
    """
    found = scope.get("route")
    if found is None and (app := scope.get("app")) is not None:
        found = next((one for one in _walked(app.routes) if one.path_regex.match(scope["path"])), None)
    if found is None:
        return None
    # Each method has a route of its own; that is said by another attribute.
    path: str = f"{_EXPLAIN}{{method}}" if found.path.startswith(_EXPLAIN) else found.path
    return re.sub(r"{(\w+):\w+}", r"{\1}", path)


def _walked(routes: Iterable[Any]) -> Iterator[Any]:
    for one in routes:
        if (included := getattr(one, "original_router", None)) is not None:
            yield from _walked(included.routes)
        elif hasattr(one, "path_regex"):
            yield one


def received(scope: Scope, headers: Headers) -> dict[str, Any]:
    """Return what a span says of a request that has come."""
    host, _, port = headers.get("host", "").rpartition(":") if ":" in headers.get("host", "") else ("", "", "")
    numbered = port.isascii() and port.isdecimal() and len(port) <= _PORT
    address = host if numbered else headers.get("host", "")
    known: dict[str, Any] = {
        "http.request.method": verb(scope),
        "url.path": scope["path"][:_LONGEST],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
    }
    if known["http.request.method"] == "_OTHER":
        known["http.request.method_original"] = scope["method"][:32]
    if address:
        known["server.address"] = address[:_LONGEST]
    if numbered:
        known["server.port"] = int(port)
    return known


def answered(
    span: Any,
    scope: Scope,
    statuses: tuple[int, int],
    error: str | None,
    words: Mapping[str, str],
    usage: Usage | None,
) -> None:
    """Write on a request's span what became of it.

    Args:
        span: it.
        scope: the request's.
        statuses: of the answer (499 where the client went away before one began), and of what it ended in.
        error: the type of the problem that was answered with.
        words: what else is known by name, as the method and the model.
        usage: what it took of the device.
    """
    status, outcome = statuses
    template = route(scope)
    # Without a route there is nothing that is bounded but the method.
    name = "HTTP" if verb(scope) == "_OTHER" else verb(scope)
    span.update_name(name if template is None else f"{name} {template}")
    known: dict[str, Any] = {"http.response.status_code": status}
    known |= {f"heatlens.{word}": value for word, value in words.items() if value not in ("", "none")}
    if template is not None:
        known["http.route"] = template
    if error is not None or outcome >= 500:
        known["error.type"] = error or str(outcome)
    if usage is not None:
        known["heatlens.forwards"] = usage.forwards
        known["heatlens.rows_avoided"] = usage.avoided
        known["heatlens.cache"] = usage.cache
        if usage.batches:
            known["heatlens.batch_rows_mean"] = usage.batch_rows / usage.batches
    span.set_attributes(known)
    if outcome >= 500:
        spans.fail(span, error or str(outcome))

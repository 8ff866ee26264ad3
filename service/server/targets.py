"""What a request is for, and whether it is meant for this server: its target and its names, each read in one way only.

A target has four forms (RFC 9112, 3.2): a path; a whole address, whose authority then counts and no `Host` does; the
authority alone, which `CONNECT` names; and `*`, which `OPTIONS` asks of a server as a whole.
"""

import re
from urllib.parse import unquote

from starlette.types import Scope

from service.api.edge.addresses import HEALTH
from service.errors import MalformedRequest, ServiceError, quoted

_PORT = re.compile(r":\d*$")
_ADDRESS = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(/.*)?", re.DOTALL)
# A host and a port, and nobody's name before them (RFC 9110, 4.2.4): what looks like one may be another's.
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::\d*)?")


def mistake(scope: Scope, hosts: frozenset[str]) -> ServiceError | None:
    """Return what is wrong with a head that can be read in two ways, or is not meant for a server of these names.

    What a whole address names replaces the request's path and its `Host`.

    Args:
        scope: the request's, as uvicorn has read it: its path is all of the target before a `?`.
        hosts: names that requests may call the server by, in small letters; none: any.
    """
    if scope["http_version"] not in ("1.0", "1.1"):
        return MalformedRequest(f"HTTP/{scope['http_version']} is not spoken here; send HTTP/1.1")
    if (misplaced := _place(scope)) is not None:
        return misplaced
    names = {name for name, _ in scope["headers"]}
    if {b"transfer-encoding", b"content-length"} <= names:
        return MalformedRequest("Transfer-Encoding and Content-Length are both sent; send one (RFC 9112, 6.1)")
    named = next((value for name, value in scope["headers"] if name == b"host"), b"")
    if named and not _AUTHORITY.fullmatch(named):
        return MalformedRequest(
            f"Host names no host: {quoted(named.decode('latin-1'))}; send a name and, if any, a port"
        )
    if hosts and scope["path"] not in HEALTH:
        host = named.decode("latin-1")
        if _PORT.sub("", host.lower()) not in hosts:
            return MalformedRequest(f"the server is not called {host[:100]!r}; name it in HEATLENS_ALLOWED_HOSTS")
    return None


def _place(scope: Scope) -> ServiceError | None:
    """Have a scope's path be a path, and its `Host` what counts for it.

    Returns:
        What is wrong with a target that is none, or none that the verb goes with. It is not raised: the scope keeps it,
        and a trace would hold the scope, until Python searches everything that lives.
    """
    target, verb = scope["raw_path"], scope["method"]
    if verb == "CONNECT":
        if not _AUTHORITY.fullmatch(target) or not target.rpartition(b":")[2].isdigit():
            return MalformedRequest("CONNECT names a host and its port (RFC 9112, 3.2.3); this server opens no tunnels")
        _name(scope, target)
    elif found := _ADDRESS.fullmatch(target):
        scheme, authority, path = found.groups()
        if scheme.lower().decode() != scope["scheme"]:  # whoever ends the TLS in front sends a path
            return MalformedRequest(f"{scope['scheme']} is spoken on this connection; send the path alone as target")
        if not _AUTHORITY.fullmatch(authority):
            return MalformedRequest(f"the target names no host: {quoted(authority.decode('latin-1'))}; send its path")
        whole = verb == "OPTIONS" and path is None and not scope["query_string"]  # RFC 9112, 3.2.4
        scope["raw_path"] = b"*" if whole else path or b"/"
        scope["path"] = unquote(scope["raw_path"].decode("ascii"))
        _name(scope, authority)
    elif not target.startswith(b"/") and (target, verb) != (b"*", "OPTIONS"):
        return MalformedRequest("the target is no path; send one that begins with / (RFC 9112, 3.2)")
    return None


def _name(scope: Scope, authority: bytes) -> None:
    """Have a request's `Host` be what its target names."""
    scope["headers"] = [(b"host", authority), *(one for one in scope["headers"] if one[0] != b"host")]

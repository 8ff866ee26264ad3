"""Whose request it is: by what device time, memory for bodies and patience are shared, and how urgent it may be."""

import logging
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.callers.keys import key_of
from service.errors import InvalidParameter

log = logging.getLogger("heatlens")
Shares = Literal["key", "address", "off"]
Proxies = Sequence[IPv4Network | IPv6Network]
_SHARES = "heatlens.shares"
_HEADER = b"x-forwarded-for"
_HOPS = 32  # that are looked at


def share(scope: Scope) -> str:
    """Return whom a request counts for: its key, else its address; empty: all count together."""
    by: Shares = scope.get(_SHARES, "address")
    if by == "off":
        return ""
    key = key_of(scope) if by == "key" else None
    client = scope.get("client")
    return f"key {key.number}" if key is not None else holder(client[0]) if client else ""


def holder(address: str, shares: Shares = "address", proxies: Proxies = ()) -> str:
    """Return whom a connection from an address counts for; empty: for nobody in particular, as that of a proxy does.

    Of an IPv6 address it is the network of 64 bits: one caller has all of that, and might come from each of them.
    """
    if shares == "off" or trusted(address, proxies):
        return ""
    try:
        known = ip_address(address)
    except ValueError:
        return address
    mapped = getattr(known, "ipv4_mapped", None)
    if known.version == 4 or mapped is not None:
        return str(mapped or known)
    return str(ip_network((known, 64), strict=False))


def trusted(address: str, proxies: Proxies) -> bool:
    """Return whether an address is one of the proxies'."""
    try:
        known = ip_address(address)
    except ValueError:
        return False
    return any(known in network for network in proxies)


def salt(scope: Scope, *, shared: bool) -> str:
    """Return what a request's results are kept apart by from those of others; empty: they are for everybody.

    Whoever is answered at once knows that somebody has asked the same before.
    """
    key = key_of(scope)
    return "" if shared or key is None else f"key {key.number}"


def most_urgent(scope: Scope, otherwise: int) -> int:
    """Return the highest priority that a request may have: its key's own, or that of all."""
    key = key_of(scope)
    return key.priority if key is not None and key.priority is not None else otherwise


def check_priority(scope: Scope, priority: int, otherwise: int) -> None:
    """Refuse a request that is more urgent than it may be.

    Args:
        scope: of the request.
        priority: that it asks for.
        otherwise: the highest of all whose key has none of its own.

    Raises:
        InvalidParameter: it is above that.
    """
    most = most_urgent(scope, otherwise)
    if priority > most:
        raise InvalidParameter.at(
            "/priority",
            f"priority {priority} is above {most}, the highest that this caller may have: HEATLENS_MAX_PRIORITY, or a "
            f"line `KEY priority={priority}` of the key file, allows more",
        )


class Callers:
    """Tells everything behind it whose address a request comes from. To be the outermost of all.

    Anybody can write a header. Without proxies that are trusted it is the address of the connection, whatever headers
    say; behind them it is the last one of `X-Forwarded-For` that is none of theirs: they have seen it themselves.
    """

    def __init__(self, app: ASGIApp, proxies: Proxies, shares: Shares) -> None:
        self.app, self.proxies, self.shares = app, proxies, shares
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        if scope["type"] == "http":
            scope[_SHARES] = self.shares
            sent = [value for name, value in scope["headers"] if name == _HEADER]
            if sent:
                self._look(scope, b",".join(sent))
        await self.app(scope, receive, send)

    def _look(self, scope: Scope, sent: bytes) -> None:
        client = scope.get("client")
        if not self.proxies:
            if not self._warned:
                self._warned = True
                log.warning(
                    "X-Forwarded-For is sent and not believed: all callers behind a proxy count as one; name the proxy "
                    "in HEATLENS_TRUSTED_PROXIES"
                )
            return
        if client is None or not trusted(client[0], self.proxies):
            return
        found = client[0]
        for hop in reversed(sent.decode("latin-1").rsplit(",", _HOPS)[-_HOPS:]):
            address = _address(hop)
            if address is None:
                break  # nobody knows who is behind that
            found = address
            if not trusted(address, self.proxies):
                break
        scope["client"] = (found, 0)


def _address(hop: str) -> str | None:
    """Return the address of a hop, which may have a port; None where it is none.

    One with a zone (RFC 4007) is none that a caller has: it means something on the proxy alone, and is of any length.
    """
    text = hop.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if getattr(address, "scope_id", None) is not None:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)

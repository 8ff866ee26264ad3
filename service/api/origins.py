"""Origins of pages that may ask, as an operator writes them and as browsers send them."""

from collections.abc import Mapping
from urllib.parse import urlsplit


def origin(text: str) -> str:
    """Return an origin as browsers send it: others would never match.

    Raises:
        ValueError: it is none, and what to write instead.
    """
    if text in ("*", "null"):
        return text
    if "*" in text:
        raise ValueError(f"{text!r} is no origin: name each one, or write * for all")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no origin ({error}); write scheme://host or scheme://host:port") from None
    if not parts.scheme or not parts.hostname or parts.username is not None:
        raise ValueError(f"{text!r} is no origin; write scheme://host or scheme://host:port, as https://example.org")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is an address and no origin; write {parts.scheme}://{parts.netloc}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None and port != default else "")


def same_host(origin: str, headers: Mapping[str, str]) -> bool:
    """Whether a page of an origin is of the host that a request's headers name, at whichever port."""
    try:
        page, own = urlsplit(origin).hostname, urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:  # no address at all
        return False
    return page is not None and page == own

"""The files that browsers are sent, under `/ui/`: in memory, none of them from another host."""

import base64
import gzip
import hashlib
import importlib.resources
import json
import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources.abc import Traversable

from starlette.datastructures import Headers
from starlette.responses import Response

from service import rendering
from service.client.wire import DIVERGING, SEQUENTIAL

COLORMAPS = {
    "sequential": (SEQUENTIAL, "viridis", "magma", "cividis", "turbo", "gray"),
    "diverging": (DIVERGING, "coolwarm", "colorbrewer:PiYG", "berlin"),
}
"""The colour maps that the page offers, by what they are for; the first of each is the default."""

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_LEAST = 1024  # bytes below which compressing saves nothing


@dataclass(frozen=True)
class File:
    """One file of the page, as it is sent."""

    content: bytes
    media_type: str

    @cached_property
    def etag(self) -> str:
        """The validator: a digest of the content, weak, as the compressed form carries it too."""
        return f'W/"{hashlib.sha256(self.content).hexdigest()[:32]}"'

    @cached_property
    def packed(self) -> bytes | None:
        """The content in gzip; None where that is not smaller."""
        if len(self.content) < _LEAST or self.media_type.startswith("image/jpeg"):
            return None
        return gzip.compress(self.content, 9, mtime=0)

    def response(self, sent: Headers) -> Response:
        """Answer a request for it; browsers keep it, and ask each time whether it is still the same."""
        headers = {"etag": self.etag, "cache-control": "no-cache", "content-security-policy": CSP}
        headers |= {"vary": "accept-encoding"} if self.packed is not None else {}
        if self.etag in (tag.strip() for tag in sent.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=headers)
        content = self.content
        if self.packed is not None and _takes_gzip(sent.get("accept-encoding", "")):
            content, headers["content-encoding"] = self.packed, "gzip"
        return Response(content, headers=headers, media_type=self.media_type)


def _takes_gzip(accepted: str) -> bool:
    for item in accepted.lower().split(","):
        name, _, weight = item.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry


def _media_type(name: str) -> str:
    kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "text/plain"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") or kind.endswith("json") else kind


def _colormaps() -> bytes:
    """Return the tables of the offered colour maps: those that the server draws with, 256 colours of three bytes."""
    found = [
        {"name": name, "kind": kind, "colors": base64.b64encode(rendering.table(name).tobytes()).decode("ascii")}
        for kind, names in COLORMAPS.items()
        for name in names
    ]
    return json.dumps(found).encode()


@cache
def files() -> Mapping[str, File]:
    """Return every file by its path under `/ui/`, packed. No other path leads anywhere on the disk."""
    package = importlib.resources.files("service")
    found = {name: File(entry.read_bytes(), _media_type(name)) for name, entry in _walk(package / "ui")}
    for name, entry in _walk(package / "photographs"):
        found[f"photographs/{name}"] = File(entry.read_bytes(), _media_type(name))
    found["colormaps.json"] = File(_colormaps(), "application/json")
    for one in found.values():
        _ = one.etag, one.packed  # which take a while the first time
    return found

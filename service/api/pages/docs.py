"""`/docs`: the contract, to read and to try in a browser, from files of this package alone (`service/ui/docs`)."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.errors import NotFound

PAGE, PLACE = "/docs", "/ui/docs/"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}


@cache
def parts() -> Mapping[str, tuple[bytes, str, str]]:
    """Return the files by their paths below `/ui/docs/`, each as its content, media type and ETag.

    They are read once, so that no address leads anywhere else on the disk.
    """
    found = {}
    for path, file in _walk(files("service") / "ui" / "docs"):
        content = file.read_bytes()
        kind = _KINDS.get(path.rpartition(".")[2], "text/plain")
        found[path] = content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return found


def _walk(folder: Traversable, inside: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{inside}{entry.name}/")
        else:
            yield inside + entry.name, entry


router = APIRouter(include_in_schema=False)


@router.get(PAGE)
async def page(request: Request) -> Response:
    """Return the page."""
    return _answer(request, "index.html")


@router.get(PLACE + "{path:path}")
async def part(request: Request, path: str) -> Response:
    """Return what the page is made of."""
    return _answer(request, path)


def _answer(request: Request, path: str) -> Response:
    """Return a file, or no more than that the client has it already."""
    if path not in parts():
        raise NotFound("there is nothing at this address; see /docs")
    content, kind, tag = parts()[path]
    headers = {"etag": tag, "cache-control": "no-cache", "content-security-policy": CSP}
    if tag in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    return Response(content, 200, headers, kind)

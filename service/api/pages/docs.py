"""`/docs`: the contract, to read and to try in a browser, from files of this package alone (`service/ui/docs`)."""

import asyncio
import threading

import orjson
from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from service.api.pages.files import files
from service.api.running import made

FOLDER = "docs/"  # below `/ui/`
router = APIRouter(include_in_schema=False)
_writing = threading.Lock()


@router.get("/docs")
async def page(request: Request) -> Response:
    """Return the page; what it is made of is a file as others."""
    return (await made(files))[f"{FOLDER}index.html"].response(request.headers)


@router.get("/openapi.json")
async def contract(request: Request) -> Response:
    """Return the contract. To write it takes a second, so that a thread does it, once."""
    app, under = request.app, request.scope.get("root_path", "")
    written = _written(app).get(under) or await asyncio.to_thread(_write, app, under)
    return Response(written, media_type="application/json")


def _written(app: FastAPI) -> dict[str, bytes]:
    """Return what was written, by the path that a proxy shows the service under."""
    if not hasattr(app.state, "contracts"):
        app.state.contracts = {}
    found: dict[str, bytes] = app.state.contracts
    return found


def _write(app: FastAPI, under: str) -> bytes:
    with _writing:
        known = _written(app)
        if under not in known:
            servers = {"servers": [{"url": under}]} if under else {}
            known[under] = orjson.dumps(app.openapi() | servers, option=orjson.OPT_NON_STR_KEYS)
        return known[under]

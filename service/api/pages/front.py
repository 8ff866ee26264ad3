"""The page for people at `/`, and all files of pages under `/ui/`."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from service.api.pages.docs import FOLDER
from service.api.pages.files import files
from service.errors import NotFound


def router(*, page: bool) -> APIRouter:
    """Return the routes of the page; without it `/` answers programs alone."""
    routes = APIRouter(include_in_schema=False)

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def root(request: Request) -> Response:
        if page and "text/html" in request.headers.get("accept", ""):
            return files()["index.html"].response(request.headers)
        return JSONResponse({"status": "alive"}, headers={"vary": "accept"} if page else {})

    @routes.api_route("/ui/{path:path}", methods=["GET", "HEAD"])
    async def file(request: Request, path: str) -> Response:
        found = files().get(path) if page or path.startswith(FOLDER) else None
        if found is None:
            raise NotFound("there is nothing at this address; see / and /docs")
        return found.response(request.headers)

    return routes

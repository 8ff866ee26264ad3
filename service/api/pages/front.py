"""The page for people at `/`, and all files of pages under `/ui/`."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from service.api.edge.rooted import SLASHLESS
from service.api.pages.docs import FOLDER
from service.api.pages.files import files
from service.api.running import made
from service.errors import NotFound


def router(*, page: bool) -> APIRouter:
    """Return the routes of the page; without it `/` answers programs alone."""
    routes = APIRouter(include_in_schema=False)

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def root(request: Request) -> Response:
        if page and "text/html" in request.headers.get("accept", ""):
            if request.scope.get(SLASHLESS):  # from there the page's own addresses would be told wrongly
                return Response(None, 308, {"location": f"{request.scope['root_path']}/", "vary": "accept"})
            return (await made(files))["index.html"].response(request.headers)
        return JSONResponse({"status": "alive"}, headers={"vary": "accept"} if page else {})

    @routes.api_route("/ui/{path:path}", methods=["GET", "HEAD"])
    async def file(request: Request, path: str) -> Response:
        found = (await made(files)).get(path) if page or path.startswith(FOLDER) else None
        if found is None:
            raise NotFound("there is nothing at this address; see / and /docs")
        return found.response(request.headers)

    return routes

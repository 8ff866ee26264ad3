"""`/docs`: the contract, to read and to try in a browser, from files of this package alone (`service/ui/docs`)."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.pages.files import files

FOLDER = "docs/"  # below `/ui/`
router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def page(request: Request) -> Response:
    """Return the page; what it is made of is a file as others."""
    return files()[f"{FOLDER}index.html"].response(request.headers)

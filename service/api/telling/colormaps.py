"""`GET /colormaps`, and the colours of one: a page that has them draws without asking again."""

from collections.abc import Iterable
from functools import cache

import cmap
from fastapi import APIRouter
from pydantic import ValidationError
from starlette.responses import Response

from service.api.documentation import refusals
from service.api.running import made
from service.client import wire
from service.errors import NotFound, did_you_mean
from service.rendering import OutputOptions, table

router = APIRouter()


@router.get(
    "/colormaps",
    tags=["methods"],
    operation_id="list_colormaps",
    summary="All colour maps.",
    response_model=wire.ColormapList,
    openapi_extra={"responses": refusals(401)},
)
async def colormaps() -> Response:
    """Return the names of all colour maps, with what each is for, and the two that are taken where none is named."""
    return Response(await made(_listed), media_type="application/json")


@router.get(
    "/colormaps/{name}",
    tags=["methods"],
    operation_id="get_colormap",
    summary="A colour map's colours.",
    openapi_extra={"responses": refusals(401, 404)},
)
async def colormap(name: str) -> wire.ColormapInfo:
    """Return 256 colours, from the least value to the greatest; of a signed map the middle one is zero's."""
    return wire.ColormapInfo(name=name, colours=_colours(name, await made(_names)))


@cache
def _names() -> dict[str, str]:
    """Return all names, each with its category."""
    catalog = cmap.Catalog()
    return {name: str(catalog[name].category) for name in sorted(catalog.namespaced_keys(), key=str.lower)}


@cache
def _listed() -> bytes:
    """Return what is the same for all who ask."""
    listed = [wire.ColormapSummary(name=name, category=category) for name, category in _names().items()]
    found = wire.ColormapList(positive=wire.SEQUENTIAL, signed=wire.DIVERGING, colormaps=listed)
    return found.model_dump_json().encode()


def _colours(name: str, known: Iterable[str]) -> list[str]:
    """Return a colour map's colours as `#rrggbb`; `known` are the names that there are.

    Raises:
        NotFound: there is none of that name.
    """
    try:
        OutputOptions(colormap=name)
    except ValidationError:
        near = did_you_mean(name, known, then="see /colormaps")
        raise NotFound(f"there is no colour map {name[:80]!r}{near}") from None
    return [f"#{bytes(colour).hex()}" for colour in table(name)]

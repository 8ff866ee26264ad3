"""What those ask who build on the service: labels, colour maps, and which build answers."""

from fastapi import APIRouter

from service.api.telling import colormaps, labels, version


def router() -> APIRouter:
    """Return the routes of all of it."""
    routes = APIRouter()
    for part in (labels, colormaps, version):
        routes.include_router(part.router)
    return routes

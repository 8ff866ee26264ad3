"""What those ask who build on the service: labels, colour maps, which build answers, and whether it does."""

from fastapi import APIRouter

from service.api.telling import colormaps, health, labels, version


def router() -> APIRouter:
    """Return the routes of all of it."""
    routes = APIRouter()
    for part in (labels, colormaps, version, health):
        routes.include_router(part.router)
    return routes

"""`GET /health/live` and `/health/ready`: whether a restart is due, and whether requests will be answered."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from service.api.context import Context, context
from service.api.documentation import refusals
from service.client import wire
from service.errors import Draining, EngineUnavailable, ModelUnavailable

router = APIRouter()


def _check_alive(service: Context) -> None:
    if not service.device.alive:
        raise EngineUnavailable("the device thread has stopped; restart the server")


def check_live(service: Context) -> None:
    """Return where the process answers and its engine can, whatever is loading.

    Raises:
        EngineUnavailable: only a restart helps: the engine has ended, or a forward hangs.
    """
    _check_alive(service)
    if stuck_s := service.device.stuck_s(service.settings.stuck_s):
        raise EngineUnavailable(f"a batch has been running for {stuck_s:.0f} s and does not end; restart the server")


async def check_ready(service: Context, model: str | None = None) -> None:
    """Return where a model, by default the default one, answers a forward right now; `*`: where all are settled, too.

    Raises:
        ServiceError: requests would not be answered.
    """
    store = service.store
    if service.device.admission.draining:
        raise Draining("the server is about to stop")
    _check_alive(service)
    if model == "*" and not store.settled:
        waiting = [name for name, entry in store.entries.items() if entry.status == "loading"]
        raise ModelUnavailable(f"still loading: {', '.join(waiting)}")
    name = store.default if model in (None, "*") else model
    store.get(name)
    await service.readiness.of(name)


@router.get(
    "/health/live",
    tags=["health"],
    operation_id="live",
    summary="Whether the process answers, and its engine can.",
    openapi_extra={"responses": refusals(503)},
)
async def live(request: Request) -> wire.Live:
    """Answer at once, whatever is loading; 503 where only a restart helps: the engine has ended, or a forward hangs."""
    check_live(context(request))
    return wire.Live(status="live")


@router.get(
    "/health/ready",
    tags=["health"],
    operation_id="ready",
    summary="Whether requests will be answered.",
    openapi_extra={"responses": refusals(404, 503, 504)},
)
async def ready(
    request: Request,
    model: Annotated[
        str | None,
        Query(description="Whether this model's requests will be; `*`: whether all models are ready or have failed."),
    ] = None,
) -> wire.Ready:
    """Answer 200 once the model asked for, by default the default one, is ready and answers a forward right now."""
    service = context(request)
    await check_ready(service, model)
    return wire.Ready(status="ready", models={name: entry.status for name, entry in service.store.entries.items()})

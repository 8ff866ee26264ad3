"""`POST /predict` and `POST /explain/{method}`, each with its own fields: all make an `Ask`, which one answers."""

import re
from collections.abc import Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api import documentation, formats
from service.api.bodies import body
from service.api.bodies.body import Body
from service.api.bodies.fields import Counter
from service.api.callers.callers import check_priority, salt, share
from service.api.context import context
from service.api.formats import Format
from service.api.observing.recording import record
from service.api.queries import unread
from service.api.running import Work, complete, stream
from service.ask import Ask
from service.comparison.asking import Compare
from service.engine.scheduler.run import Run
from service.errors import InvalidParameter
from service.explainers.base import method, registry


async def handle(request: Request, ask: Ask, format: Format) -> Response:
    """Answer what is asked, whatever it is, in a format.

    Raises:
        ServiceError: whatever is wrong, by field.
    """
    return await answer(request, begin(request, ask, format, starting(request)))


async def answer(request: Request, begun: Work) -> Response:
    """Do what is planned, and answer in its format.

    Raises:
        ServiceError: whatever ends it.
    """
    format = begun.format
    if format.streams:
        return stream(request, begun)
    return Response(await complete(request, begun), media_type=format.media_type)


def begin(request: Request, ask: Ask | Compare, format: Format, run: Run, work: type[Work] = Work) -> Work:
    """Plan what is asked, within what its caller may have.

    Raises:
        ServiceError: whatever is wrong, by field.
    """
    service = context(request)
    check_priority(request.scope, ask.priority, service.settings.max_priority)
    run.limit(ask.timeout_s or service.settings.default_timeout_s, ask.priority)
    begun = work.of(service, ask, run, format)
    known, model = record(request), begun.plan.model
    known.model, known.version = model.facts.name, model.version
    return begun


async def received(request: Request) -> Body:
    """Read a request's body; its time runs from here on."""
    settings, run = context(request).settings, starting(request)
    with run.usage.stage("read"):
        return await body.read(
            request,
            settings.max_body_bytes,
            settings.body_timeout_s,
            settings.least_bytes_per_s,
            context(request).body_pool,
            run.caller,
        )


async def received_bytes(request: Request, counter: Counter) -> tuple[bytes, Run]:
    """Read a request's body, whatever it is; its time runs from here on. A counter stops one of too many items."""
    settings, run = context(request).settings, starting(request)
    limits = settings.max_body_bytes, settings.body_timeout_s, settings.least_bytes_per_s
    with run.usage.stage("read"):
        return await body.whole(request, *limits, counter), run


def starting(request: Request) -> Run:
    """Return a request's run, whose time begins with the first call."""
    known = record(request)
    if known.run is not None:
        return known.run
    salted = salt(request.scope, shared=context(request).settings.shared_cache)
    known.run = run = Run(id=known.id, caller=share(request.scope), salt=salted)
    return run


def paths() -> dict[str, str]:
    """Return what is work, by the paths of its routes: the methods' names, and `predict`."""
    return {"/predict": "predict", "/compare": "compare"} | {f"/explain/{name}": name for name in registry()}


def router() -> APIRouter:
    """Return the routes of predictions and of all registered methods."""
    routes = APIRouter()

    async def predict(request: Request) -> Response:
        sent = await received(request)
        return await handle(request, Ask.predict(sent.fields, sent.image), formats.JSON)

    routes.add_api_route("/predict", predict, **documentation.predicting())
    for name, cls in registry().items():
        routes.add_api_route(f"/explain/{name}", _explaining(name), **documentation.explaining(cls))

    @routes.post("/explain/{unknown}", include_in_schema=False)
    async def unknown_method(unknown: str) -> Response:
        method(unknown)  # raises: known ones have a route of their own
        raise AssertionError(unknown)

    return routes


def _explaining(name: str) -> Callable[[Request], object]:
    async def explain(request: Request) -> Response:
        format = formats.accepted(request.headers.get("accept", "*/*"))
        if (which := _which(request, format)) is not None:
            format = format.of(which)
        sent = await received(request)
        ask = Ask.explain(name, sent.fields, sent.image)
        if len(ask.targets) > 1 and format.single and which is None:
            raise InvalidParameter.at(
                "/targets",
                f"{format.media_type} shows one map, and {len(ask.targets)} targets are named; accept application/json "
                "or application/zip, name one target, or one map in the address (?map=2)",
            )
        return await handle(request, ask, format)

    return explain


def _which(request: Request, format: Format) -> int | None:
    """Return the map that an address asks for, from 0 on; None where it names none.

    Raises:
        InvalidParameter: it names no number from 1 on, or the format has all maps.
    """
    if set(request.query_params) - {"map"}:
        raise unread(request.url.query, sends=True, taken="map")
    named = request.query_params.getlist("map")
    if not named:
        return None
    if len(named) > 1 or not re.fullmatch("[1-9][0-9]{0,5}", named[0]):
        raise InvalidParameter.at("/query/map", "name one map by its number, from 1 on: ?map=2")
    if not format.single:
        raise InvalidParameter.at(
            "/query/map", f"{format.media_type} has all maps; leave `map` out, or accept a picture or application/x-npy"
        )
    return int(named[0]) - 1

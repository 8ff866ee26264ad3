"""`POST /explain/{method}`: one route for each registered method, typed with the method's own parameters."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import create_model
from starlette.responses import Response

from service.api import body, respond, schemas
from service.api.context import context
from service.api.documentation import PROBLEMS, request_body
from service.api.middleware import record
from service.engine.scheduler.run import Run
from service.errors import InvalidParameter
from service.explainers.base import Explainer, method, registry

EVENTS = (
    "Events `progress` (rows_done, rows_total, seconds_left), `partial` (the same and maps of what is done so far, for "
    "score-cam and occlusion), then `result` (an ExplainResponse) or `error` (a Problem)."
)


def request_schema(cls: type[Explainer]) -> type[schemas.ExplainRequest]:
    """Return the wire type of a method's request, its `params` typed."""
    fields: dict[str, Any] = {"params": (cls, cls.model_construct())}
    if not cls.needs_image:
        fields["image"] = (None, None)
    return create_model(
        f"{cls.__name__}Request", __base__=schemas.ExplainRequest, __doc__=f"A request for {cls.name}.", **fields
    )


def paths() -> dict[str, str]:
    """Return the names of all registered methods by the paths of their routes."""
    return {f"/explain/{name}": name for name in registry()}


def router() -> APIRouter:
    """Return the routes of all registered methods."""
    routes = APIRouter(tags=["explain"])
    for cls in registry().values():
        _add(routes, cls)

    @routes.post("/explain/{unknown}", include_in_schema=False)
    async def unknown_method(unknown: str) -> Response:
        method(unknown)  # raises: known ones have a route of their own
        raise AssertionError(unknown)

    return routes


def _add(routes: APIRouter, cls: type[Explainer]) -> None:
    schema = request_schema(cls)

    async def explain(request: Request) -> Response:
        service = context(request)
        known = record(request)
        kind = respond.accepted(request)
        run = known.run = Run(id=known.id)
        with run.usage.stage("read"):
            received = await body.read(request, service.settings.max_body_bytes, service.settings.body_timeout_s)
        asked = body.validate(schema, received)
        if received.image is not None and not cls.needs_image:
            raise InvalidParameter.at("/image", f"{cls.name} needs no picture; leave it out")
        explainer = asked.params
        assert isinstance(explainer, Explainer)
        run.limit(asked.timeout_s or service.settings.default_timeout_s, asked.priority)
        plan = service.pipeline.plan(explainer, model=asked.model, targets=asked.targets, precision=asked.precision)

        known.model = plan.model.facts.name

        def work() -> bytes:
            image = body.image_bytes(asked.image) if asked.image is not None else received.image
            answer = service.pipeline.explain(plan, image=image, output=asked.output, run=run)
            with run.usage.stage("encode"):
                return respond.encode(answer, kind)

        if kind == respond.EVENTS:
            return respond.stream(request, service, run, plan.passes, work)
        future = respond.start(service, run, plan.passes, work)
        return Response(await respond.complete(request, service, run, future), media_type=kind)

    summary, _, description = (cls.__doc__ or "").strip().partition("\n")
    routes.add_api_route(
        f"/explain/{cls.name}",
        explain,
        methods=["POST"],
        operation_id=f"explain_{cls.name.replace('-', '_')}",
        summary=summary,
        description=f"{description.strip()}\n\nReference: {cls.reference}. Needs: {cls.requirement} Cost: {cls.cost}.",
        response_class=Response,
        responses={
            200: {
                "description": "The maps; the first one alone for `Accept: image/png` or `application/x-npy`; events "
                "for `text/event-stream`.",
                "content": {
                    respond.JSON: {"schema": {"$ref": "#/components/schemas/ExplainResponse"}},
                    respond.PNG: {"schema": {"type": "string", "format": "binary"}},
                    respond.NPY: {"schema": {"type": "string", "format": "binary"}},
                    respond.EVENTS: {"schema": {"type": "string", "description": EVENTS}},
                },
            },
            **PROBLEMS,
        },
        openapi_extra=request_body(schema, picture=cls.needs_image),
    )

"""`POST /explain/{method}`: one route for each registered method, typed with the method's own parameters."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import create_model
from starlette.responses import Response

from service.api import body, respond, schemas
from service.api.context import context
from service.api.documentation import PROBLEMS, request_body
from service.engine.device import Run
from service.explainers.base import Explainer, method, registry


def request_schema(cls: type[Explainer]) -> type[schemas.ExplainRequest]:
    """Return the wire type of a method's request, its `params` typed."""
    fields: dict[str, Any] = {"params": (cls, cls.model_construct())}
    if not cls.needs_image:
        fields["image"] = (None, None)
    return create_model(
        f"{cls.__name__}Request", __base__=schemas.ExplainRequest, __doc__=f"A request for {cls.name}.", **fields
    )


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
        kind = respond.accepted(request)
        received = await body.read(request, service.settings.max_body_bytes)
        asked = body.validate(schema, received)
        explainer = asked.params
        assert isinstance(explainer, Explainer)
        run = Run(timeout_s=asked.timeout_s or service.settings.default_timeout_s, priority=asked.priority)

        def work() -> Response:
            run.check()
            image = body.image_bytes(asked.image) if asked.image is not None else received.image
            answer = service.pipeline.explain(
                explainer, model=asked.model, image=image, targets=asked.targets, output=asked.output, run=run
            )
            return respond.encode(answer, kind)

        return await respond.in_pool(service.pool, work)

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
                "description": "The maps; the first one alone for `Accept: image/png` or `application/x-npy`.",
                "content": {
                    respond.JSON: {"schema": {"$ref": "#/components/schemas/ExplainResponse"}},
                    respond.PNG: {"schema": {"type": "string", "format": "binary"}},
                    respond.NPY: {"schema": {"type": "string", "format": "binary"}},
                },
            },
            **PROBLEMS,
        },
        openapi_extra=request_body(schema, picture=cls.needs_image),
    )

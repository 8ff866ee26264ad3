"""`POST /predict`."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api import body, respond, schemas
from service.api.context import context
from service.api.documentation import PROBLEMS, request_body
from service.api.middleware import record
from service.engine.scheduler.run import Run

router = APIRouter(tags=["predict"])


@router.post(
    "/predict",
    operation_id="predict",
    summary="What the network sees.",
    response_class=Response,
    responses={
        200: {
            "description": "The strongest classes, or the regression's values.",
            "content": {respond.JSON: {"schema": {"$ref": "#/components/schemas/PredictResponse"}}},
        },
        **PROBLEMS,
    },
    openapi_extra=request_body(schemas.PredictRequest),
)
async def predict(request: Request) -> Response:
    """Return the strongest classes with label, probability and logit, or a regression's values."""
    service = context(request)
    known = record(request)
    run = known.run = Run(id=known.id)
    with run.usage.stage("read"):
        received = await body.read(request, service.settings.max_body_bytes, service.settings.body_timeout_s)
    asked = body.validate(schemas.PredictRequest, received)
    run.limit(asked.timeout_s or service.settings.default_timeout_s, asked.priority)
    known.model = service.store.get(asked.model).facts.name

    def work() -> bytes:
        image = body.image_bytes(asked.image) if asked.image is not None else received.image
        answer = service.pipeline.predict(
            model=asked.model, image=image, top_k=asked.top_k, run=run, precision=asked.precision
        )
        return respond.json(answer.body)

    future = respond.start(service, run, 1, work)
    return Response(await respond.complete(request, service, run, future), media_type=respond.JSON)

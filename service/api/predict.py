"""`POST /predict`."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api import body, respond, schemas
from service.api.context import context
from service.api.documentation import PROBLEMS, request_body
from service.engine.device import Run

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
    received = await body.read(request, service.settings.max_body_bytes)
    asked = body.validate(schemas.PredictRequest, received)
    run = Run(timeout_s=asked.timeout_s or service.settings.default_timeout_s, priority=asked.priority)

    def work() -> Response:
        run.check()
        image = body.image_bytes(asked.image) if asked.image is not None else received.image
        answer = service.pipeline.predict(model=asked.model, image=image, top_k=asked.top_k, run=run)
        return respond.json(answer.body)

    return await respond.in_pool(service.pool, work)

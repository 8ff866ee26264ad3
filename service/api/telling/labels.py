"""`GET /models/{name}/labels`."""

from fastapi import APIRouter, Request

from service.api.context import context
from service.api.documentation import refusals
from service.client import wire

router = APIRouter()


@router.get(
    "/models/{name}/labels",
    tags=["models"],
    operation_id="get_labels",
    summary="A model's labels.",
    openapi_extra={"responses": refusals(401, 404)},
)
async def labels(request: Request, name: str) -> wire.LabelList:
    """Return the names of a model's outputs, in their order; none where it has no names for them."""
    return wire.LabelList(model=name, labels=list(context(request).store.entry(name).spec.labels))

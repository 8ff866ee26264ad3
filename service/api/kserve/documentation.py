"""What OpenAPI says of the protocols' routes: their own documents define them, so that only the outline stands here."""

from typing import Any

from starlette.responses import Response

from service.api.documentation import refusals

_OBJECT: dict[str, Any] = {"schema": {"type": "object"}}


def listing(operation: str, summary: str, *statuses: int) -> dict[str, Any]:
    """Return the documentation of a route that tells something."""
    return {
        "operation_id": operation,
        "summary": summary,
        "response_model": dict[str, Any],
        "openapi_extra": {"responses": refusals(401, 404, 422, 503, *statuses)},
    }


def asking(operation: str, summary: str, request: dict[str, Any]) -> dict[str, Any]:
    """Return the documentation of a route that asks the network."""
    answer = {"200": {"description": "The answer, in the protocol's form.", "content": {"application/json": _OBJECT}}}
    return {
        "operation_id": operation,
        "summary": summary,
        "response_class": Response,
        "openapi_extra": {
            "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
            "responses": answer | refusals(400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504),
        },
    }

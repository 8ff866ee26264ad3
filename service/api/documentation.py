"""What OpenAPI cannot derive from handlers that read their bodies themselves."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service import __version__
from service.api import problems, schemas

_STATUS = {
    400: "The body cannot be read as what it claims to be.",
    401: "A key is needed.",
    404: "No such model or method.",
    408: "The body did not arrive in time.",
    413: "Too many bytes or pixels.",
    415: "Not an accepted type of body or image.",
    422: "An image that cannot be decoded, a wrong parameter, or a method that does not apply to the model.",
    429: "Too much work is waiting; Retry-After says when to come back.",
    500: "A defect of the server.",
    503: "The model is loading or has failed, the server is stopping, or the engine has stopped.",
    504: "The request's deadline has passed.",
}


_RETRY = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}}}
_HEADERS: Mapping[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string", "const": "Bearer"}}},
    429: _RETRY,
    503: _RETRY,
}


def _problem(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    described = {"description": _STATUS[status], "content": {problems.MEDIA_TYPE: {"schema": schema}}}
    return described | ({"headers": _HEADERS[status]} if status in _HEADERS else {})


PROBLEMS: dict[int | str, dict[str, Any]] = {status: _problem(status) for status in _STATUS}
_requests: dict[str, type[BaseModel]] = {}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of some error responses."""
    return {status: PROBLEMS[status] for status in statuses}


def request_body(schema: type[schemas.Request], *, picture: bool = True) -> dict[str, Any]:
    """Return the two documented bodies of a path."""
    _requests[schema.__name__] = schema
    reference = {"$ref": f"#/components/schemas/{schema.__name__}"}
    parts: dict[str, Any] = {
        "request": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": reference,
            "description": "The request as a JSON object, without image.",
        }
    }
    if picture:
        parts = {"image": {"type": "string", "format": "binary", "description": "The picture's file."}} | parts
    example = {"image": "<base64>"} if picture else {}
    form = {
        "type": "object",
        "properties": parts,
        "required": ["image"] if picture else [],
        "additionalProperties": False,
    }
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": reference, "example": example},
                "multipart/form-data": {"schema": form},
            },
        }
    }


def openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, with the types that the handlers read and write themselves."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(
        title="heatlens",
        version=__version__,
        summary="What a vision network sees, and why.",
        description=(
            "Explanations of image models over HTTP. Every error is an RFC 9457 problem that names the field and the "
            "remedy. Raw arrays are unnormalised float32; colours are for people only."
        ),
        routes=app.routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    own: Mapping[str, type[BaseModel]] = _requests | {
        cls.__name__: cls for cls in (schemas.ExplainResponse, schemas.PredictResponse, schemas.Problem)
    }
    _, definitions = models_json_schema(
        [(cls, "validation") for cls in own.values()], ref_template="#/components/schemas/{model}"
    )
    for item in document["paths"].values():
        for operation in item.values():  # FastAPI's own, for paths with a parameter; ours may be any text
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    components = document.setdefault("components", {}).setdefault("schemas", {})
    components.update(definitions["$defs"])
    for unused in ("HTTPValidationError", "ValidationError"):
        components.pop(unused, None)
    document["components"]["schemas"] = dict(sorted(components.items()))
    app.openapi_schema = document
    return document

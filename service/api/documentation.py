"""What OpenAPI cannot derive from handlers that read their bodies themselves; what many routes have is said once."""

import inspect
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from service import __version__, errors
from service.api import formats, problems
from service.api.formats import Format
from service.ask import request_schema
from service.client import wire
from service.explainers.base import Explainer, families, identifier, registry
from service.tasks import TASKS

_RETRY = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}}}
_HEADERS: Mapping[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string", "const": "Bearer"}}},
    405: {"Allow": {"description": "The verbs.", "required": True, "schema": {"type": "string"}}},
    429: _RETRY,
    503: _RETRY,
}

_MAP = {
    "name": "map",
    "in": "query",
    "description": "Which map an answer of one map shows, from 1 on. Default: the first one.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999},
}
_PICTURES = 16  # further ones of a request, as `wire.Pictured` has it


def refusals(*statuses: int) -> dict[str, Any]:
    """Return the documentation of an operation's error responses: these, and what every address may answer."""
    return {str(status): reference("responses", f"Problem{status}") for status in sorted({*statuses, 405, 422, 500})}


def reference(kind: str, name: str) -> dict[str, str]:
    """Return a reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def _problem(status: int, kinds: list[type[errors.ServiceError]]) -> dict[str, Any]:
    """Return an error response: which types of problems there are of a status, and what each means."""
    said = {
        "description": " ".join(f"`{kind.type}`: {inspect.getdoc(kind)}" for kind in kinds),
        "content": {problems.MEDIA_TYPE: {"schema": reference("schemas", "Problem")}},
    }
    return said | ({"headers": _HEADERS[status]} if status in _HEADERS else {})


def predicting() -> dict[str, Any]:
    """Return the documentation of `POST /predict`."""
    answer = {
        "description": "The strongest classes, or the regression's values.",
        "content": {formats.JSON.media_type: {"schema": reference("schemas", "PredictResponse")}},
    }
    return asking(
        "predict",
        "predict",
        "What the network sees.",
        "Return the strongest classes with label, probability and logit, or a regression's values.",
        "PredictRequest",
        answer,
    )


def _explained() -> dict[str, Any]:
    """Return the answer of every method's route."""
    content = {row.media_type: {"schema": reference("schemas", schema_of(row))} for row in formats.TABLE}
    return {"description": "The maps, in the form that `Accept` prefers.", "content": content}


def explaining(cls: type[Explainer]) -> dict[str, Any]:
    """Return the documentation of a method's route."""
    summary, _, description = (inspect.getdoc(cls) or "").partition("\n")
    facts = f"Reference: {cls.reference}. Needs: {cls.requirement} Cost: {cls.cost}."
    said = asking(
        cls.family,
        f"explain_{identifier(cls.name)}",
        summary,
        f"{description.strip()}\n\n{facts}",
        request_schema(cls).__name__,
        reference("responses", "Explained"),
        picture=cls.needs_image,
        further=cls.needs_image,
    )
    said["openapi_extra"]["parameters"] = [reference("parameters", "map")]
    return said


def schema_of(row: Format) -> str:
    """Return the name of what a format's answers are described by."""
    return "ExplainResponse" if row is formats.JSON else "Events" if row.streams else row.extensions[0][1:].capitalize()


def asking(
    tag: str,
    operation: str,
    summary: str,
    description: str,
    request: str,
    answer: Mapping[str, Any],
    *,
    picture: bool = True,
    further: bool = False,
) -> dict[str, Any]:
    """Return the documentation of a route that takes the two documented bodies.

    Args:
        tag: of its group.
        operation: its name.
        summary: what it does, in a sentence.
        description: the rest.
        request: the schema of its JSON.
        answer: what it answers with.
        picture: whether it is about one.
        further: whether targets may name further ones.
    """
    schema = reference("schemas", request)
    parts: dict[str, Any] = {
        "request": {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    }
    if picture:
        parts = {"image": {"type": "string", "format": "binary"}} | parts
    if further:
        parts["pictures"] = {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": _PICTURES}
    form = {"type": "object", "properties": parts, "additionalProperties": False}
    body = {
        "required": True,
        "content": {
            "application/json": {"schema": schema},
            "multipart/form-data": {"schema": form | ({"required": ["image"]} if picture else {})},
        },
    }
    answers = {"200": answer} | refusals(400, 401, 403, 404, 408, 413, 415, 429, 503, 504)
    return {
        "methods": ["POST"],
        "tags": [tag],
        "operation_id": operation,
        "summary": summary,
        "description": description,
        "response_class": Response,
        "openapi_extra": {"requestBody": body, "responses": answers},
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
        tags=[{"name": name, "description": about} for name, about in families().items()],
        routes=app.routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    for path, item in document["paths"].items():
        for operation in item.values():
            if path.startswith("/health/"):
                operation["security"] = []  # probes have no key
            # FastAPI's own, for paths with a parameter; ours may be any text.
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                operation["responses"]["422"] = reference("responses", "Problem422")  # FastAPI's own has another form
            answer = operation["responses"].get("200", {})
            if "$ref" in answer:
                operation["responses"]["200"] = {"$ref": answer["$ref"]}
    components = document.setdefault("components", {})
    # Whether a server wants a key is its operator's: all clients can send one, and none has to.
    document["security"] = [{}, {"bearer": []}]
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "description": "A key, if any."}}
    components["responses"] = {f"Problem{status}": _problem(status, kinds) for status, kinds in errors.by_status()}
    components["responses"]["Explained"] = _explained()
    components["parameters"] = {"map": _MAP}
    components["schemas"] = _schemas(components.get("schemas", {}))
    app.openapi_schema = document
    return document


def _schemas(derived: Mapping[str, Any]) -> dict[str, Any]:
    """Return all schemas: those that FastAPI derived, and of requests and answers; what requests share stands once."""
    requests: list[type[BaseModel]] = [
        wire.PredictRequest,
        wire.CompareRequest,
        *(request_schema(cls) for cls in registry().values()),
    ]
    answers: list[type[BaseModel]] = [
        wire.ExplainResponse,
        wire.PredictResponse,
        wire.CompareResponse,
        wire.Problem,
    ]
    _, own = models_json_schema(
        [(cls, "validation") for cls in [*requests, *answers]], ref_template="#/components/schemas/{model}"
    )
    schemas: dict[str, Any] = {**derived, **own["$defs"]}
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for schema in schemas.values():
        for name, field in schema.get("properties", {}).items():
            field.pop("title", None)  # which is the field's name again
            if name == "task":
                field["enum"] = list(TASKS)
    for cls in registry().values():
        schemas[cls.__name__]["description"] = f"Parameters of {cls.name}."  # its route says what it does
    shared = wire.ExplainRequest.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
    for request in requests:
        properties = schemas[request.__name__]["properties"]
        for name, field in properties.items():
            common = {key: value for key, value in shared.get(name, {}).items() if key != "title"}
            if field == common and "$ref" not in field:
                schemas[f"Request.{name}"] = field
                properties[name] = reference("schemas", f"Request.{name}")
    for row in formats.TABLE[1:]:
        form = {} if row.streams else {"format": "binary"}
        schemas[schema_of(row)] = {"type": "string", **form, "description": row.about}
    return dict(sorted(schemas.items()))

"""Every error as an RFC 9457 problem."""

import logging
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.errors import InternalError, InvalidParameter, MethodNotAllowed, NotFound, ServiceError

log = logging.getLogger("heatlens")
MEDIA_TYPE = "application/problem+json"


def problem(error: ServiceError, instance: str) -> Response:
    """Return the problem document of an error."""
    body: dict[str, Any] = {
        "type": f"urn:heatlens:problem:{error.type}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": instance,
        "error": error.title,
    }
    if error.errors:
        body["errors"] = [{"pointer": e.pointer, "detail": e.detail} for e in error.errors]
    headers = {"retry-after": "5"} if error.status == 503 else {}
    return Response(orjson.dumps(body), error.status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of the application as a problem."""

    @app.exception_handler(ServiceError)
    def ours(request: Request, error: ServiceError) -> Response:
        return problem(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return problem(InvalidParameter(f"{'/'.join(map(str, first['loc']))}: {first['msg']}"), request.url.path)

    @app.exception_handler(HTTPException)
    def routing(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another verb")
            response = problem(
                MethodNotAllowed(f"{request.method} is not for this address; use {allowed}"), request.url.path
            )
            response.headers.update(error.headers or {})
            return response
        if error.status_code == 404:
            return problem(NotFound("there is nothing at this address; see /docs"), request.url.path)
        raise error

    @app.exception_handler(Exception)
    def defect(request: Request, error: Exception) -> Response:
        log.error("defect while answering %r", request.url.path, exc_info=error)
        return problem(InternalError("the server met a defect of its own; its log holds the cause"), request.url.path)

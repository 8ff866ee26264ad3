"""Every error as an RFC 9457 problem."""

import logging
import re
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.ask import MOST_ERRORS
from service.errors import InternalError, InvalidParameter, MethodNotAllowed, ModelFailed, NotFound, ServiceError

log = logging.getLogger("heatlens")
MEDIA_TYPE = "application/problem+json"
# Whose clients show a message only of JSON that says so, and of an `error`.
_PROTOCOLS = re.compile(r"/v[12](/.*)?", re.DOTALL)
OWN = (413, 415, 422)
"""Statuses of what is wrong with a picture itself, and will be again."""
LONGEST = 256  # characters of what was sent that any answer repeats
_SHOWN = 200
_LONG_WORD = re.compile(rf"\S{{{_SHOWN + 1},}}")


def fields(error: ServiceError, instance: str) -> dict[str, Any]:
    """Return an error as `wire.Problem` has it: of many mistakes the first ones, and of what was sent a beginning."""
    body: dict[str, Any] = {
        "type": f"urn:heatlens:problem:{error.type}",
        "title": error.title,
        "status": error.status,
        "detail": _bounded(error.detail),
        "instance": instance[:LONGEST],
        "error": error.title,
    }
    if error.errors:
        body["errors"] = [
            {"pointer": e.pointer[:LONGEST], "detail": _bounded(e.detail)} for e in error.errors[:MOST_ERRORS]
        ]
    return body


def document(error: ServiceError, instance: str) -> bytes:
    """Return the problem document of an error."""
    return orjson.dumps(fields(error, instance))


def _bounded(text: str) -> str:
    """Return a text in which no word is longer than any of ours: only what was sent has such words.

    What quotes it cuts it by itself (`errors.quoted`); nothing that forgets to repeats megabytes.
    """
    return _LONG_WORD.sub(lambda word: f"{word[0][:_SHOWN]}...", text)


def problem(error: ServiceError, instance: str) -> Response:
    """Return the response for an error."""
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else {}
    if _PROTOCOLS.fullmatch(instance):
        said = fields(error, instance)
        said["error"] = f"{error.title}: {said['detail']}"
        return Response(orjson.dumps(said), error.status, headers, "application/json")
    return Response(document(error, instance), error.status, headers, MEDIA_TYPE)


def known(path: str, error: BaseException) -> ServiceError:
    """Return an error that may be shown: a defect, and what a network raised, goes to the log instead."""
    if isinstance(error, ModelFailed):
        log.error("while answering %r: %s", path, error.detail, extra={"raised": error.raised})
    if isinstance(error, ServiceError):
        return error
    log.error("defect while answering %r", path, exc_info=error)
    return InternalError("the server met a defect of its own; its log holds the cause")


def install(app: FastAPI) -> None:
    """Answer every error of the application as a problem.

    Without a thread: refusals must stay cheap when there is too much work.
    """

    @app.exception_handler(ServiceError)
    async def ours(request: Request, error: ServiceError) -> Response:
        known(request.url.path, error)
        request.scope["heatlens"].failed(error)
        error.with_traceback(None)  # whose frames hold the future that holds the error, and the request's body
        return problem(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return problem(InvalidParameter(f"{'/'.join(map(str, first['loc']))}: {first['msg']}"), request.url.path)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            verbs = {verb.strip() for verb in (error.headers or {}).get("Allow", "").split(",")}
            allowed = ", ".join(sorted(verbs | ({"HEAD"} if "GET" in verbs else set())))
            response = problem(
                MethodNotAllowed(f"{request.method[:20]} is not for this address; use {allowed}"), request.url.path
            )
            response.headers["allow"] = allowed
            return response
        if error.status_code == 404:
            return problem(NotFound("there is nothing at this address; see /docs"), request.url.path)
        raise error

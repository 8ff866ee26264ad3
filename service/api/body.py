"""Reading a request's body: JSON or multipart on the same path, within bounds, each mistake named."""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from service.api import schemas
from service.errors import (
    Cancelled,
    FieldError,
    InvalidParameter,
    MalformedRequest,
    TooLarge,
    TooSlow,
    UnsupportedMediaType,
    did_you_mean,
)

R = TypeVar("R", bound=schemas.Request)


@dataclass(frozen=True)
class Body:
    """A body taken apart: the request object, and the picture's bytes from a multipart part."""

    fields: dict[str, Any]
    image: bytes | None


async def read(request: Request, max_bytes: int, timeout_s: float) -> Body:
    """Read and take apart a body.

    Raises:
        TooLarge: more than `max_bytes`, found while it streams in.
        TooSlow: it takes longer than `timeout_s` to arrive.
        UnsupportedMediaType: neither JSON nor multipart.
        MalformedRequest: not what it says it is.
        Cancelled: the caller went away before the end.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "multipart/form-data"):
        named = f"content type {kind!r} is" if kind else "a request without a content type is"
        raise UnsupportedMediaType(
            f"{named} not accepted; send application/json with the picture in base64, or multipart/form-data with the "
            "file in a part named 'image'"
        )
    try:
        async with asyncio.timeout(timeout_s):
            data = await _collect(request, max_bytes)
    except TimeoutError:
        raise TooSlow(f"the body did not arrive within {timeout_s:g} s; send a smaller picture") from None
    if not data:
        raise MalformedRequest("the body is empty; send a JSON object, or multipart/form-data with a part 'image'")
    if kind == "application/json":
        return Body(_object(data, "the body"), None)
    return await _multipart(request, data)


async def _collect(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > max_bytes:
        raise TooLarge(f"the body has {int(declared):,} bytes and at most {max_bytes:,} are accepted")
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > max_bytes:
                raise TooLarge(f"the body has more than the {max_bytes:,} bytes that are accepted")
    except ClientDisconnect:
        raise Cancelled("the caller went away while sending") from None
    return bytes(data)


def _object(data: bytes | str, what: str) -> dict[str, Any]:
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"{what} is not valid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise MalformedRequest(f"{what} has to be a JSON object, not a {type(parsed).__name__}")
    return parsed


async def _multipart(request: Request, data: bytes) -> Body:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield data

    class InMemory(MultiPartParser):
        spool_max_size = len(data) + 1  # nothing on disk: the root file system may be read-only
        complete = False

        def on_end(self) -> None:
            self.complete = True

    # A part that is no file may be as large as the body, which is bounded already.
    parser = InMemory(request.headers, whole(), max_files=4, max_fields=4, max_part_size=len(data) + 1)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = getattr(error, "message", None) or "it has no valid boundary"
        raise MalformedRequest(f"the body is not valid multipart/form-data: {reason}") from None
    else:
        if not parser.complete:
            raise MalformedRequest("the body is not valid multipart/form-data: it is cut off before its last boundary")
        return await _parts(form.multi_items())
    finally:
        for file in parser._files_to_close_on_error:  # all of them: one that is cut off belongs to no form
            file.close()


async def _parts(parts: list[tuple[str, UploadFile | str]]) -> Body:
    for name, _ in parts:
        if name not in ("image", "request"):
            raise MalformedRequest(
                f"unknown part {name!r}{did_you_mean(name, ('image', 'request'))}; the parts are 'image' (a file) and, "
                "optionally, 'request' (the request as a JSON object, without the image)"
            )
    if len(parts) != len(dict(parts)):
        raise MalformedRequest("a part is sent twice; send one 'image' and at most one 'request'")
    found = dict(parts)
    text = found.get("request", "{}")
    if isinstance(text, UploadFile):
        raw: bytes | str = await text.read()
    else:
        raw = text
    fields = _object(raw, "part 'request'")
    if "image" in fields:
        raise InvalidParameter.at("/image", "send the picture in the part 'image' or in JSON, not in part 'request'")
    image = found.get("image")
    if isinstance(image, str):
        raise MalformedRequest(
            "part 'image' is a text field; send it as a file (with curl: -F image=@picture.jpg, with the @)"
        )
    return Body(fields, await image.read() if image is not None else None)


def validate(schema: type[R], body: Body) -> R:
    """Check a body against its wire type.

    Raises:
        InvalidParameter: with every wrong field's pointer.
    """
    try:
        asked = schema.model_validate(body.fields)
    except ValidationError as error:
        raise _invalid(error.errors(include_url=False), schema, body.fields) from None
    # That takes `true` and "1" for numbers, which the documented types do not.
    long = isinstance(body.fields.get("image"), str)
    try:
        schema.model_validate_json(orjson.dumps(body.fields | {"image": ""} if long else body.fields), strict=True)
    except ValidationError as error:
        wrong = [
            e for e in error.errors(include_url=False) if isinstance(e["input"], bool | str) or "bool" in e["type"]
        ]
        if wrong:
            raise _invalid(wrong, schema, body.fields) from None
    return asked


def _invalid(found: Sequence[Any], schema: type[BaseModel], fields: dict[str, Any]) -> InvalidParameter:
    errors = [FieldError(_pointer(e["loc"], fields), _say(e, schema)) for e in found]
    unique = list({e.pointer: e for e in reversed(errors)}.values())[::-1]  # a union complains once per branch
    detail = "; ".join(f"{e.pointer or '/'}: {e.detail}" for e in unique[:5])
    return InvalidParameter(detail, errors=unique)


def _pointer(loc: tuple[int | str, ...], value: Any) -> str:
    """Return the JSON pointer of a place in a request; names that pydantic adds for a union's branches are left out."""
    pointer = ""
    for part in loc:
        inside = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if inside or (isinstance(value, dict) and part in value):
            value = value[part]
            pointer += "/" + str(part).replace("~", "~0").replace("/", "~1")
    return pointer


def image_bytes(text: str) -> bytes:
    """Decode base64 or a data: URI.

    Raises:
        InvalidParameter: it is neither.
    """
    if text.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma or not header.endswith(";base64"):
            raise InvalidParameter.at("/image", "the data: URI has to be base64: data:image/png;base64,...")
    elif text.startswith(("http://", "https://")):
        raise InvalidParameter.at("/image", "addresses are not fetched; send the picture itself in base64")
    compact = "".join(text.split())
    try:
        return base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter.at(
            "/image", f"not valid base64 ({error}); use the standard alphabet with padding, or send multipart/form-data"
        ) from None


def _say(error: Any, schema: type[BaseModel]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        known = list(_fields_at(schema, error["loc"][:-1]))
        near = did_you_mean(str(error["loc"][-1]), known)
        return f"unknown field{near}; known are {', '.join(known)}" if known else "unknown field; there are none here"
    if error["type"] == "none_required":
        return "not used here; leave it out"
    value = error.get("input")
    if isinstance(value, int | float | str | bool) and len(str(value)) <= 80:
        return f"{message} (got {value!r})"
    return message


def _fields_at(schema: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        inner = schema.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        schema = inner
    return list(schema.model_fields)

"""Reading a request's body: JSON or multipart on the same path, within bounds, each mistake named."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from service.errors import (
    Cancelled,
    InvalidParameter,
    MalformedRequest,
    TooLarge,
    TooSlow,
    UnsupportedMediaType,
    did_you_mean,
)


@dataclass(frozen=True)
class Body:
    """A body taken apart: the request object, and the picture's bytes from a multipart part."""

    fields: dict[str, Any]
    image: bytes | None


SMALL_BODY = 64 * 1024  # bytes: what is no larger takes too little to be hurried
_PAUSE_S = 10.0  # longest one between two pieces of a larger body
_PARTS = ("image", "pictures", "request")
_NAMELESS = b'; filename=""'


async def read(request: Request, max_bytes: int, timeout_s: float, least_rate: float) -> Body:
    """Read and take apart a body.

    Raises:
        TooLarge: more than `max_bytes`, found while it streams in.
        TooSlow: it takes longer than `timeout_s` to arrive, or, once it is large, arrives at less than `least_rate`
            bytes a second.
        UnsupportedMediaType: neither JSON nor multipart, or compressed.
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
    data = await whole(request, max_bytes, timeout_s, least_rate)
    if not data:
        raise MalformedRequest("the body is empty; send a JSON object, or multipart/form-data with a part 'image'")
    if kind == "application/json":
        return Body(_object(data, "the body"), None)
    return await _multipart(request, data)


async def whole(request: Request, max_bytes: int, timeout_s: float, least_rate: float) -> bytes:
    """Read a body, whatever it is.

    Raises:
        ServiceError: as `read` has it.
    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedMediaType(f"content encoding {coding!r} is not accepted; send the body as it is, uncompressed")
    return await _collect(request, max_bytes, timeout_s, least_rate)


async def _collect(request: Request, max_bytes: int, timeout_s: float, least_rate: float) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > max_bytes:
        raise TooLarge(f"the body has {int(declared):,} bytes and at most {max_bytes:,} are accepted")
    data = bytearray()
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    try:
        async with asyncio.timeout_at(end) as patience:
            async for chunk in request.stream():
                data += chunk
                if len(data) > max_bytes:
                    raise TooLarge(f"the body has more than the {max_bytes:,} bytes that are accepted")
                if len(data) > SMALL_BODY:
                    # A large body takes memory that others wait for: it has to go on arriving.
                    due = loop.time() + _PAUSE_S
                    patience.reschedule(min(end, due, end - timeout_s + _PAUSE_S + len(data) / least_rate))
    except ClientDisconnect:
        raise Cancelled("the caller went away while sending") from None
    except TimeoutError:
        raise TooSlow(
            f"the body did not arrive within {timeout_s:g} s, or stopped arriving; send it faster, or a smaller picture"
        ) from None
    return bytes(data)


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"{what} is not valid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise MalformedRequest(f"{what} has to be a JSON object, not a {type(parsed).__name__}")
    return parsed


class _InMemory(MultiPartParser):
    """Reads a form that is there already, without a file on disk: the root file system may be read-only.

    Every part is read as a file, whatever its headers say: many clients leave the file's name out, or write it in a way
    of its own (`filename*`).
    """

    def __init__(self, request: Request, data: bytes) -> None:
        self.spool_max_size = len(data) + 1
        self._complete = False
        super().__init__(request.headers, self._whole(data), max_files=20, max_fields=0, max_part_size=len(data) + 1)

    async def _whole(self, data: bytes) -> AsyncGenerator[bytes, None]:
        yield data
        if not self._complete:  # raised here, the parser closes all files, also the one that is cut off
            raise MultiPartException("it is cut off before its last boundary")

    def on_headers_finished(self) -> None:
        """Take the part for a file."""
        _, options = parse_options_header(self._current_part.content_disposition)
        if b"name" in options and b"filename" not in options:
            self._current_part.content_disposition = (self._current_part.content_disposition or b"") + _NAMELESS
        super().on_headers_finished()

    def on_end(self) -> None:
        """Note that the last boundary has been read."""
        self._complete = True


async def _multipart(request: Request, data: bytes) -> Body:
    try:
        form = await _InMemory(request, data).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = getattr(error, "message", None) or "it has no valid boundary"
        raise MalformedRequest(f"the body is not valid multipart/form-data: {reason}") from None
    try:
        return await _parts([(name, part) for name, part in form.multi_items() if isinstance(part, UploadFile)])
    finally:
        await form.close()


async def _parts(parts: list[tuple[str, UploadFile]]) -> Body:
    for name, _ in parts:
        if name not in _PARTS:
            then = (
                "the parts are 'image' (a file) and, optionally, 'request' (the request as a JSON object, without the "
                "image) and further 'pictures' (files)"
            )
            raise MalformedRequest(f"unknown part {name!r}" + did_you_mean(name, _PARTS, then=then))
    further = [part for name, part in parts if name == "pictures"]
    parts = [(name, part) for name, part in parts if name != "pictures"]
    found = dict(parts)
    if len(parts) != len(found):
        raise MalformedRequest("a part is sent twice; send one 'image' and at most one 'request'")
    raw = await found["request"].read() if "request" in found else b""
    fields = _object(raw, "part 'request'") if raw.strip() else {}
    if "image" in fields:
        raise InvalidParameter.at("/image", "send the picture in the part 'image' or in JSON, not in part 'request'")
    if further:
        if "pictures" in fields:
            raise MalformedRequest("send further pictures as files, each in a part 'pictures', or all of them in JSON")
        fields["pictures"] = [await _file(part, "pictures") for part in further]
    return Body(fields, await _file(found["image"], "image") if "image" in found else None)


async def _file(part: UploadFile, name: str) -> bytes:
    """Return a part's bytes; refuse a text where a file was meant."""
    data = await part.read()
    kind = (part.content_type or "").partition(";")[0].strip().lower()
    if not part.filename and kind in ("", "text/plain") and _is_text(data):
        raise MalformedRequest(
            f"part {name!r} is a text field; send it as a file (with curl: -F {name}=@picture.jpg, with the @)"
        )
    return data


def _is_text(data: bytes) -> bool:
    """Whether bytes are a text, as no picture's are; nothing at all counts as one."""
    try:
        return data.decode().isprintable()
    except UnicodeDecodeError:
        return False

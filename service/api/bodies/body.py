"""Reading a request's body: JSON or multipart on the same path, within bounds, each mistake named."""

import asyncio
import codecs
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.api.bodies.fields import Counter, parsed
from service.api.bodies.multipart import Part, taken_apart
from service.errors import (
    Cancelled,
    InvalidParameter,
    MalformedRequest,
    TooLarge,
    TooSlow,
    UnsupportedMediaType,
    did_you_mean,
    quoted,
)
from service.fair.threads import Threads


@dataclass(frozen=True)
class Body:
    """A body taken apart: the request object, and the picture's bytes from a multipart part."""

    fields: dict[str, Any]
    image: bytes | None


SMALL_BODY = 64 * 1024  # bytes: what is no larger takes too little to be hurried, or to be read in a thread
_PAUSE_S = 10.0  # longest one between two pieces of a larger body
_PARTS = ("image", "pictures", "request")
_JSON, _FORM = "application/json", "multipart/form-data"
_BEGINNING = 4096  # bytes of a part by which it is known to be no text; no picture's are all letters
_UTF8 = codecs.getincrementaldecoder("utf-8")
_TYPE_LENGTH = 1024  # characters of a content type, whose parameters take longer to read the more there are


async def read(
    request: Request,
    max_bytes: int,
    timeout_s: float,
    least_rate: float,
    pool: Threads | None = None,
    caller: Hashable = "",
) -> Body:
    """Read and take apart a body; a large one in a thread, so that nobody else waits for it.

    Args:
        request: whose body it is.
        max_bytes: most bytes.
        timeout_s: for all of it to arrive.
        least_rate: bytes a second that a large one has to arrive at.
        pool: of the threads; default: asyncio's own.
        caller: whose turn a thread takes.

    Raises:
        TooLarge: more than `max_bytes`, found while it streams in.
        TooSlow: it takes longer than `timeout_s` to arrive, or, once it is large, arrives at less than `least_rate`
            bytes a second.
        UnsupportedMediaType: neither JSON nor multipart.
        MalformedRequest: not what it says it is.
        Cancelled: the caller went away before the end.
    """
    header = request.headers.get("content-type", "")
    kind = header.partition(";")[0].strip().lower()
    if kind not in (_JSON, _FORM) or len(header) > _TYPE_LENGTH:
        named = f"content type {quoted(kind)} is" if kind else "a request without a content type is"
        if len(header) > _TYPE_LENGTH:
            named = f"a content type of more than {_TYPE_LENGTH:,} characters is"
        raise UnsupportedMediaType(
            f"{named} not accepted; send application/json with the picture in base64, or multipart/form-data with the "
            "file in a part named 'image'"
        )
    data = await whole(request, max_bytes, timeout_s, least_rate, Counter() if kind == _JSON else None)
    if not data:
        raise MalformedRequest("the body is empty; send a JSON object, or multipart/form-data with a part 'image'")
    take = partial(_taken, data, header if kind == _FORM else None)
    if len(data) <= SMALL_BODY:
        return take()
    if pool is None:
        return await asyncio.to_thread(take)
    return await asyncio.wrap_future(pool.submit_for(caller, take))


async def whole(
    request: Request, max_bytes: int, timeout_s: float, least_rate: float, counter: Counter | None = None
) -> bytes:
    """Read a body, whatever it is; a counter stops one of too many items.

    Raises:
        ServiceError: as `read` has it.
    """
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
                if counter is not None:
                    counter.take(chunk)
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


def _taken(data: bytes, form: str | None) -> Body:
    """Take a body apart; `form` is the content type of a multipart one. For one of many bytes this takes a while."""
    if form is None:
        return Body(parsed(data, "the body"), None)
    return _put_together(taken_apart(data, form))


def _put_together(parts: list[Part]) -> Body:
    for part in parts:
        if part.name not in _PARTS:
            then = (
                "the parts are 'image' (a file) and, optionally, 'request' (the request as a JSON object, without the "
                "image) and further 'pictures' (files)"
            )
            raise MalformedRequest(f"unknown part {quoted(part.name)}" + did_you_mean(part.name, _PARTS, then=then))
    further = [part for part in parts if part.name == "pictures"]
    parts = [part for part in parts if part.name != "pictures"]
    found = {part.name: part for part in parts}
    if len(parts) != len(found):
        raise MalformedRequest("a part is sent twice; send one 'image' and at most one 'request'")
    raw = found["request"].data if "request" in found else b""
    fields = parsed(raw, "part 'request'") if raw.strip() else {}
    if "image" in fields:
        raise InvalidParameter.at("/image", "send the picture in the part 'image' or in JSON, not in part 'request'")
    if further:
        if "pictures" in fields:
            raise MalformedRequest("send further pictures as files, each in a part 'pictures', or all of them in JSON")
        fields["pictures"] = [_file(part) for part in further]
    return Body(fields, _file(found["image"]) if "image" in found else None)


def _file(part: Part) -> bytes:
    """Return a part's bytes; refuse a text where a file was meant."""
    if not part.named and part.kind in ("", "text/plain") and _is_text(part.data):
        raise MalformedRequest(
            f"part {part.name!r} is a text field; send it as a file (with curl: -F {part.name}=@picture.jpg, with the "
            "@)"
        )
    return part.data


def _is_text(data: bytes) -> bool:
    """Whether bytes begin with a text, as no picture's do; nothing at all counts as one."""
    try:
        # The beginning of a longer one may end within a letter.
        return _UTF8().decode(data[:_BEGINNING], final=len(data) <= _BEGINNING).isprintable()
    except UnicodeDecodeError:
        return False

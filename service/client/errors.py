"""Every error of a client: one tree, by what a caller can do about it.

HeatlensError
├── InvalidRequest          400, 413, 415, 422  the request or its picture is wrong; `errors` names the fields
│   └── NotApplicable       422                 the method does not apply to this model; `detail` names another one
├── Denied                  401, 403            no key, or a wrong one
├── NotFound                404                 no such model, method or address
├── Overloaded              429                 too much waits there; it was asked again before this was raised
├── Unavailable             503                 loading, or about to stop; it was asked again, too
├── DeadlineExceeded        504                 `timeout_s` ran out, there or here
├── ServerFailed            other 5xx           a defect of the server, or of what stands before it
└── ConnectionFailed        no status           no answer, or one that broke off
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

PROBLEM = "application/problem+json"
NOT_OURS = (500, 502, 503, 504)
"""What proxies and servers that die answer: without a problem document, asking again may help."""


@dataclass(frozen=True)
class FieldProblem:
    """One wrong field: a JSON pointer into the request, and what to do about it."""

    pointer: str
    detail: str


class HeatlensError(Exception):
    """What went wrong, as the server's problem document (RFC 9457) says it.

    status: of HTTP; None: there was no answer.
    type: `urn:heatlens:problem:...`, or `about:blank` where the answer was not the service's own.
    title: the kind of problem, in words.
    detail: the case, and the remedy.
    errors: the wrong fields.
    request_id: by which the server's log names the request.
    retry_after_s: when to come back, where the server says it.
    retriable: whether the same request may succeed later. Requests change nothing, so that they may be sent again.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        type: str = "about:blank",
        title: str = "",
        errors: tuple[FieldProblem, ...] = (),
        request_id: str | None = None,
        retry_after_s: float | None = None,
        retriable: bool = False,
    ) -> None:
        super().__init__(detail)
        self.detail, self.status, self.type, self.title = detail, status, type, title
        self.errors, self.request_id = errors, request_id
        self.retry_after_s, self.retriable = retry_after_s, retriable

    def __str__(self) -> str:
        head = " ".join(str(part) for part in (self.status, self.title) if part)
        return f"{head}: {self.detail}" if head else self.detail


class InvalidRequest(HeatlensError):
    """The request, or its picture, is wrong."""


class NotApplicable(InvalidRequest):
    """The method does not apply to this model."""


class Denied(HeatlensError):
    """No key, a wrong one, or a page that may not ask."""


class NotFound(HeatlensError):
    """There is no such model, method or address."""


class Overloaded(HeatlensError):
    """Too much work waits."""


class Unavailable(HeatlensError):
    """The model is loading or has failed, or the server is about to stop."""


class DeadlineExceeded(HeatlensError):
    """`timeout_s` ran out."""


class ServerFailed(HeatlensError):
    """The server met a defect, or what stands before it failed; or what answers is no heatlens."""


class ConnectionFailed(HeatlensError):
    """No answer came, or it broke off."""


_BY_STATUS: Mapping[int, type[HeatlensError]] = {
    401: Denied,
    403: Denied,
    404: NotFound,
    429: Overloaded,
    503: Unavailable,
    504: DeadlineExceeded,
}


def of_response(status: int, headers: Mapping[str, str], content: bytes) -> HeatlensError:
    """Return the error of an answer that is none, in whatever form it comes.

    Args:
        status: of HTTP, outside 200..299.
        headers: by names in any case, as httpx has them.
        content: the body.
    """
    ours = headers.get("content-type", "").partition(";")[0].strip().lower() == PROBLEM
    problem = document(content) if ours else {}
    said: dict[str, Any] = {
        "status": status,
        "request_id": headers.get("x-request-id"),
        "retry_after_s": retry_after_s(headers.get("retry-after", "")),
        "retriable": status in (429, 503) or (status in NOT_OURS and not problem),
    }
    if not problem:
        return _kind(status)(_foreign(status, headers, content), title="Not an answer of heatlens", **said)
    return of_problem(problem, **said)


def of_problem(problem: Mapping[str, Any], **said: Any) -> HeatlensError:
    """Return the error of a problem document; `said` is what the answer around it says."""
    kind = str(problem.get("type", "about:blank"))
    status = said.pop("status", None) or _int(problem.get("status"))
    cls = NotApplicable if kind.endswith(":not-applicable") else _kind(status or 500)
    return cls(
        str(problem.get("detail") or problem.get("title") or "no reason is given"),
        status=status,
        type=kind,
        title=str(problem.get("title", "")),
        errors=tuple(
            FieldProblem(str(one.get("pointer", "")), str(one.get("detail", "")))
            for one in problem.get("errors", ())
            if isinstance(one, dict)
        ),
        **said,
    )


def _kind(status: int) -> type[HeatlensError]:
    fallback = ServerFailed if status >= 500 or status < 400 else InvalidRequest
    return _BY_STATUS.get(status, fallback)


def _foreign(status: int, headers: Mapping[str, str], content: bytes) -> str:
    """Return what to say of an answer that something else has given: a proxy, or another server."""
    if 300 <= status < 400:
        return f"the address leads on to {headers.get('location', 'nowhere')}; give that one"
    text = " ".join(content[:2000].decode("utf-8", "replace").split())[:200]
    return f"answered {status}" + (f": {text}" if text else " without a word")


def document(content: bytes | str) -> dict[str, Any]:
    """Return a problem document; an empty one where it is none."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def retry_after_s(text: str, now: float | None = None) -> float | None:
    """Return the seconds that a `Retry-After` asks for, which is a number or a date; None where it is neither.

    Args:
        text: the header's value.
        now: seconds since 1970.
    """
    text = text.strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - (time() if now is None else now))
    except (ValueError, TypeError, OverflowError):
        return None

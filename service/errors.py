"""Every error a caller can meet, with the status and problem type it travels under.

ServiceError
├── MalformedRequest        400  the body cannot be read as what it claims to be
├── Unauthorized            401  no key, or a wrong one
├── Forbidden               403  a page of another site asks
├── UnknownModel            404
├── UnknownMethod           404
├── NotFound                404  any other address
├── MethodNotAllowed        405
├── TooSlow                 408  the body did not arrive in time
├── TooLarge                413  bytes or pixels
├── UnsupportedMediaType    415  a body or an image type that is not accepted
├── UnprocessableImage      422  an accepted image type that cannot be decoded
├── InvalidParameter        422  a field with a wrong value
├── NotApplicable           422  the method does not apply to this model
├── ModelOutput             422  the network has no finite answer to this picture
├── ModelFailed             422  the network's own code fails on this picture
├── Overloaded              429  too many rows wait already
├── ModelUnavailable        503  loading, or failed to load
├── Draining                503  the server is about to stop
├── EngineUnavailable       503  the device thread has stopped
├── OutOfMemory             503  one row alone does not fit on the device
├── CodecUnavailable        503  what decodes and draws was ended from outside, twice
├── DeadlineExceeded        504
├── Cancelled               499  the caller went away; nobody reads this answer
└── InternalError           500  a defect of ours; the log holds the cause
CatalogError                     start-up only: a mistake in the models that were asked for
"""

import difflib
import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import islice
from typing import Any, ClassVar, Literal, NamedTuple

_LONGEST_WORD = 128  # characters of a word that another one is looked for
_COMPARED = 24  # known words that one is compared with, letter by letter
_SOUGHT: ContextVar[list[str] | None] = ContextVar("_SOUGHT", default=None)  # words, where one alone is looked for
_QUOTED = 100  # characters that are shown of what was sent
_SHOWN = 8  # items of a list or an object that was sent


class FieldError(NamedTuple):
    """One wrong field: a JSON pointer into the request, and what to do about it."""

    pointer: str
    detail: str


def escaped(name: str | int) -> str:
    """Return a step of a JSON pointer (RFC 6901)."""
    return str(name).replace("~", "~0").replace("/", "~1")


class ServiceError(Exception):
    """Base of all errors that reach a caller as an RFC 9457 problem.

    `remedy` is what the caller can do about any of the kind; an error's `detail` says more of the case.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    remedy: ClassVar[str] = ""

    def __init__(self, detail: str, *, errors: Sequence[FieldError] = (), retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s if retry_after_s is not None else 5 if self.status == 503 else None
        self.reason: str = self.type  # what refusals are counted by


Overload = Literal["requests", "passes", "time", "bodies", "connections"]
"""What there is too much of: requests or passes that wait, time that they will take, bytes of bodies, connections."""


class MalformedRequest(ServiceError):
    """The body cannot be read as what it claims to be."""

    status, type, title = 400, "malformed-request", "Malformed request"
    remedy = "send JSON, or multipart with a part `image`"


class Unauthorized(ServiceError):
    """No key, or a wrong one."""

    status, type, title = 401, "unauthorized", "Unauthorized"
    remedy = "send `Authorization: Bearer KEY`"


class Forbidden(ServiceError):
    """A page of another site asks, whose origin is not allowed."""

    status, type, title = 403, "forbidden", "Forbidden"
    remedy = "let the server's operator name the page's origin in `HEATLENS_CORS_ORIGINS`"


class UnknownModel(ServiceError):
    """No model of that name is served."""

    status, type, title = 404, "unknown-model", "Unknown model"
    remedy = "see `/models`"


class UnknownMethod(ServiceError):
    """No explanation method of that name exists."""

    status, type, title = 404, "unknown-method", "Unknown method"
    remedy = "see `/methods`"

    @classmethod
    def among(cls, name: str, known: Collection[str]) -> "UnknownMethod":
        """Build the error for a name that none of the known ones is."""
        return cls(
            f"there is no method {quoted(name)}" + did_you_mean(name, known, then=f"there are: {', '.join(known)}")
        )


class NotFound(ServiceError):
    """No such address."""

    status, type, title = 404, "not-found", "Not found"
    remedy = "see `/docs`"


class MethodNotAllowed(ServiceError):
    """The address exists under another HTTP verb."""

    status, type, title = 405, "method-not-allowed", "HTTP method not allowed"
    remedy = "use the verb that `Allow` names"


class TooSlow(ServiceError):
    """The body did not arrive in time."""

    status, type, title = 408, "too-slow", "Request took too long to arrive"
    remedy = "send a smaller picture"


class TooLarge(ServiceError):
    """More bytes or pixels than the server accepts."""

    status, type, title = 413, "too-large", "Too large"
    remedy = "scale the picture down; `detail` says how much is accepted"


class UnsupportedMediaType(ServiceError):
    """A body or image type that is not on the list of accepted ones."""

    status, type, title = 415, "unsupported-media-type", "Unsupported media type"
    remedy = "send a type that `detail` names"


class UnprocessableImage(ServiceError):
    """An image of an accepted type that cannot be decoded or used."""

    status, type, title = 422, "unprocessable-image", "Image cannot be decoded"
    remedy = "save the picture again"


class InvalidParameter(ServiceError):
    """A field of the request has a wrong value."""

    status, type, title = 422, "invalid-parameter", "Invalid parameter"
    remedy = "`errors[].pointer` names the field, and its `detail` the remedy"

    @classmethod
    def at(cls, pointer: str, detail: str) -> "InvalidParameter":
        """Build the error for one field, named by its JSON pointer."""
        return cls(detail, errors=[FieldError(pointer, detail)])


class NotApplicable(ServiceError):
    """The method's definition does not cover this model."""

    status, type, title = 422, "not-applicable", "Method not applicable to this model"
    remedy = "`detail` names an alternative"


class ModelOutput(ServiceError):
    """The network answers this picture with what is no finite number."""

    # It was seen to answer with numbers when it was loaded, so that it is the picture that it has no answer to: sent
    # again, it has none again. Hence a status that says so, and not one of those after which clients try again.
    status, type, title = 422, "model-output", "The model has no finite answer"
    remedy = "send another picture, or ask for `precision: fp32`"


class ModelFailed(ServiceError):
    """The network's own code fails on this picture, or answers it with what is no answer."""

    # As above: it answered when it was loaded, and fails again on what it fails on. What it raised is for the log
    # alone, as nobody knows what its author writes into it.
    status, type, title = 422, "model-failed", "The model fails on this picture"
    remedy = "send another picture; the server's log holds what its network raised"

    def __init__(self, detail: str, *, raised: str = "", **more: Any) -> None:
        super().__init__(detail, **more)
        self.raised = raised  # with its traceback


class Overloaded(ServiceError):
    """Too many passes or requests wait already."""

    status, type, title = 429, "overloaded", "Too much work waiting"
    remedy = "come back after `Retry-After` seconds"

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        retry_after_s: int | None = None,
        reason: Overload = "requests",
    ) -> None:
        super().__init__(detail, errors=errors, retry_after_s=retry_after_s)
        self.reason = reason


class ModelUnavailable(ServiceError):
    """The model is still loading or failed to load."""

    status, type, title = 503, "model-unavailable", "Model not available"
    remedy = "wait while it loads; else `/models/{name}` says why it failed"


class Draining(ServiceError):
    """The server finishes what it has accepted, and stops."""

    status, type, title = 503, "draining", "Server is stopping"
    remedy = "come back after `Retry-After` seconds, to the next server"


class EngineUnavailable(ServiceError):
    """The device thread does not answer."""

    status, type, title = 503, "engine-unavailable", "Engine not available"
    remedy = "restart the server"


class OutOfMemory(ServiceError):
    """One row alone does not fit on the device."""

    status, type, title = 503, "out-of-memory", "Not enough device memory"
    remedy = "choose a smaller model or an earlier moment"


class CodecUnavailable(ServiceError):
    """The process that decodes and draws was ended in the middle of it, twice."""

    status, type, title = 503, "codec-unavailable", "Picture cannot be decoded or drawn now"
    remedy = "send the request again"


class DeadlineExceeded(ServiceError):
    """The request's own `timeout_s` ran out."""

    status, type, title = 504, "deadline-exceeded", "Deadline exceeded"
    remedy = "raise `timeout_s`, or ask for less"


class Cancelled(ServiceError):
    """The caller has gone; its rows are dropped."""

    status, type, title = 499, "cancelled", "Cancelled"


class InternalError(ServiceError):
    """A defect of the server."""

    remedy = "report it with `X-Request-ID`; the server's log holds the cause"


class CatalogError(Exception):
    """The models asked for at start-up cannot be set up; the message names key and remedy."""


def by_status() -> Iterator[tuple[int, list[type[ServiceError]]]]:
    """Give the kinds of errors that a caller may meet, by status; `Cancelled` is read by nobody."""
    found: defaultdict[int, list[type[ServiceError]]] = defaultdict(list)
    for kind in ServiceError.__subclasses__():
        if kind is not Cancelled and kind.__module__ == __name__:
            found[kind.status].append(kind)
    yield from sorted(found.items())


def quoted(sent: object) -> str:
    """Return what was sent as it stands in an answer: as Python writes it, and no more than its beginning.

    Of an object there are the names alone, and of what is within a list no more than that it is there: it may be of
    any depth and size.
    """
    if isinstance(sent, str):
        return repr(sent) if len(sent) <= _QUOTED else f"{sent[:_QUOTED]!r}... ({len(sent):,} characters)"
    if isinstance(sent, list | tuple | Mapping):
        inner = [_within(one) for one in islice(sent, _SHOWN)] + ["..."] * (len(sent) > _SHOWN)
        text = f"{{{', '.join(inner)}}}" if isinstance(sent, Mapping) else f"[{', '.join(inner)}]"
    else:
        text = repr(sent)
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."


def _within(one: object) -> str:
    return "[...]" if isinstance(one, list | tuple) else "{...}" if isinstance(one, Mapping) else quoted(one)


@contextmanager
def one_suggestion() -> Iterator[None]:
    """Let `did_you_mean` within look for the first word alone, as of one request: each takes milliseconds."""
    outer = _SOUGHT.get()
    token = _SOUGHT.set([] if outer is None else outer)
    try:
        yield
    finally:
        _SOUGHT.reset(token)


def did_you_mean(word: str, known: Iterable[str], *, count: int = 1, then: str = "") -> str:
    """Return what follows a word that is not known: `"; did you mean 'x'? Known are x, y"`.

    Args:
        word: which is none of those known. For one of more than 128 characters nothing is looked for, nor for a second
            one within `one_suggestion`.
        known: of which the nearest are offered, if any is near.
        count: how many at most.
        then: what else there is to say; without a near word it follows a semicolon.
    """
    sought = _SOUGHT.get()
    if len(word) > _LONGEST_WORD or sought:
        return suggested([], then)
    if sought is not None:
        sought.append(word)
    lowered = {name.lower(): name for name in known}
    inner = word.lower().rpartition(".")[2]  # of a path that begins elsewhere, as `model.layer4`
    near = difflib.get_close_matches(word.lower(), _alike(word.lower(), tuple(lowered)), n=count, cutoff=0.5)
    if not near and inner in lowered:
        near = [inner]
    return suggested([lowered[name] for name in near], then)


def _alike(word: str, known: tuple[str, ...]) -> list[str]:
    """Return the known words that share most pairs of letters with one, for their length.

    To compare a word with each of a thousand labels letter by letter takes an event loop's turn of 10 ms.
    """
    own = _pairs(word)
    shared = [2 * len(own & pairs) / (len(own) + len(pairs)) for pairs in _pairs_of(known)]
    best = heapq.nlargest(_COMPARED, range(len(known)), key=lambda i: (shared[i], -i))
    return [known[i] for i in sorted(best)]


@lru_cache(maxsize=64)
def _pairs_of(known: tuple[str, ...]) -> list[frozenset[str]]:
    return [_pairs(word) for word in known]


def _pairs(word: str) -> frozenset[str]:
    """Return the pairs of letters of a word, its ends counted as letters."""
    return frozenset(a + b for a, b in zip(f"^{word}", f"{word}$", strict=True))


def suggested(words: Sequence[str], then: str = "") -> str:
    """Return words as a question, and what follows as a sentence of its own; see `did_you_mean`."""
    if not words:
        return f"; {then}" if then else ""
    asked = f"; did you mean {' or '.join(map(repr, words))}?"
    return f"{asked} {then[0].upper()}{then[1:]}" if then else asked

"""What makers of networks are called with, and what to write where they do not take it."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from service.errors import CatalogError, did_you_mean

_UNEXPECTED = re.compile(r"(?P<callee>[\w.<>]+)\(\) got an unexpected keyword argument '(?P<name>\w+)'")
_LISTED = 12


def calling(what: str, call: Callable[[], Any], arguments: Mapping[str, Any]) -> Any:
    """Return what a maker makes.

    Args:
        what: it makes, for people.
        call: the maker, with all that it is given.
        arguments: what of that the user gives.

    Raises:
        CatalogError: it does not take them, and the nearest that it does take; or what else it raised.
    """
    try:
        return call()
    except CatalogError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        given = f" with arguments = {dict(arguments)}" if arguments else ""
        raise CatalogError(
            refused(what, error, arguments)
            or f"{what} cannot be made{given} ({type(error).__name__}: {text}); make it in Python with the same "
            "arguments first"
        ) from error


def refused(what: str, error: Exception, arguments: Mapping[str, Any]) -> str | None:
    """Return what to say where an error speaks of an argument that is not taken; None where it speaks of others."""
    found = _UNEXPECTED.search(str(error)) if isinstance(error, TypeError) else None
    if found is None or found["name"] not in arguments:
        return None
    known = _known(error, found["callee"])
    listed = ", ".join(known[:_LISTED]) + (", ..." if len(known) > _LISTED else "")
    then = f"{found['callee'].removesuffix('.__init__')} takes {listed}" if known else "leave it out"
    return f"arguments: {what} takes no {found['name']!r}" + did_you_mean(found["name"], known, then=then)


def _known(error: Exception, callee: str) -> list[str]:
    """Return the arguments of what was called, which is looked for where it was called."""
    for value in _around(error):
        maker = value.func if isinstance(value, partial) else value
        if not isinstance(maker, type | FunctionType | MethodType):
            continue
        own = maker.__qualname__
        init = (
            getattr(inspect.getattr_static(maker, "__init__"), "__qualname__", None)
            if isinstance(maker, type)
            else None
        )
        if callee not in (own, init, f"{own}.__init__"):
            continue
        try:
            parameters = inspect.signature(maker).parameters.values()
        except (TypeError, ValueError):  # written in C
            return []
        return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return []


def _around(error: Exception) -> Iterator[Any]:
    """Yield all values of the frames that an error came through, the last ones first."""
    frames, at = [], error.__traceback__
    while at is not None:
        frames.append(at.tb_frame)
        at = at.tb_next
    for frame in reversed(frames):
        yield from list(frame.f_locals.values())
        yield from list(frame.f_globals.values())

"""A request's fields against their type, with every mistake told by its place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from service.client import wire
from service.errors import FieldError, InvalidParameter, did_you_mean, escaped, one_suggestion

R = TypeVar("R", bound=wire.Request)
MOST_ERRORS = 20  # of one request that are told
_MEMBERS = 1024  # of any list or object whose members are looked at one by one


def checked(schema: type[R], fields: Mapping[str, Any]) -> R:
    """Check fields against their wire type.

    Raises:
        InvalidParameter: with every wrong field's pointer.
    """
    _countable(fields)
    given = without_pictures(fields)
    asked, wrong = None, []
    try:
        asked = schema.model_validate(given)
    except ValidationError as error:
        wrong += error.errors(include_url=False)
    if asked is None or _changed(given, asked):
        # That takes `true` and "1" for numbers, and the like, which the documented types do not.
        try:
            schema.model_validate_json(json.dumps(given), strict=True)
        except ValidationError as error:
            strict = error.errors(include_url=False)
            wrong += [e for e in strict if isinstance(e["input"], bool | str) or "bool" in e["type"]]
    if asked is None or wrong:
        raise _invalid(wrong, schema, given) from None
    return asked


def without_pictures(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with nothing in the place of each picture's text, which may be long; any will do for its type."""
    given = dict(fields)
    if isinstance(given.get("image"), str):
        given["image"] = ""
    if isinstance(given.get("pictures"), list):
        given["pictures"] = ["" if isinstance(one, str | bytes) else one for one in given["pictures"]]
    return given


def _countable(value: Any, pointer: str = "", deep: int = 3) -> None:
    """Raise `InvalidParameter` where something has more members than any field takes.

    Each wrong member would be told as a mistake of its own, before its number is found to be one.
    """
    if not isinstance(value, Mapping | list | tuple):
        return
    if len(value) > _MEMBERS:
        raise InvalidParameter.at(
            pointer, f"{len(value):,} members; no list and no object takes more than {_MEMBERS:,}"
        )
    if deep > 1:
        members = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, one in members:
            _countable(one, f"{pointer}/{escaped(name)}", deep - 1)


def _changed(given: Any, taken: Any) -> bool:
    """Whether checking has made another type of a value that was given; a number may become another kind of number."""
    if isinstance(given, Mapping) and isinstance(taken, BaseModel):
        return any(_changed(value, getattr(taken, name)) for name, value in given.items())
    if isinstance(given, list | tuple) and isinstance(taken, list | tuple):
        return any(_changed(a, b) for a, b in zip(given, taken, strict=False))
    return any(isinstance(given, kind) != isinstance(taken, kind) for kind in (bool, str))


def _invalid(found: Sequence[Any], schema: type[BaseModel], fields: Mapping[str, Any]) -> InvalidParameter:
    # Two checks have found them: they are told in the order of the request.
    order = {name: i for i, name in enumerate(fields)}
    unique: dict[str, FieldError] = {}  # a union complains once per branch
    with one_suggestion():
        for e in sorted(found, key=lambda e: order.get(e["loc"][0], len(order)) if e["loc"] else -1):
            pointer = _pointer(e["loc"], fields)
            if pointer in unique:
                continue
            if len(unique) == MOST_ERRORS:
                break
            unique[pointer] = FieldError(pointer, _say(e, schema))
    errors = list(unique.values())
    detail = "; ".join(f"{e.pointer or '/'}: {e.detail}" for e in errors[:5])
    return InvalidParameter(detail, errors=errors)


def _pointer(loc: tuple[int | str, ...], value: Any) -> str:
    """Return the JSON pointer of a place in a request; names that pydantic adds for a union's branches are left out."""
    pointer = ""
    for part in loc:
        inside = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if inside or (isinstance(value, dict) and part in value):
            value = value[part]
            pointer += f"/{escaped(part)}"
    return pointer


def _say(error: Any, schema: type[BaseModel]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        known = list(_fields_at(schema, error["loc"][:-1]))
        then = f"known are {', '.join(known)}" if known else "there are none here"
        return "unknown field" + did_you_mean(str(error["loc"][-1]), known, then=then)
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

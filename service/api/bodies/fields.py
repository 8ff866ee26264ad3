"""What a request's JSON may be made of, whatever it says: so many items, so deep, and texts of so many characters.

All that follows, which checks fields against their types and words what is wrong with them, takes time by the number
of items and by their lengths. So these are bounded once, where a body is read, and nothing behind has to be.
"""

from typing import Any

import orjson

from service.errors import InvalidParameter, MalformedRequest, TooLarge, escaped

TEXT = 256  # characters of any text but `image` and `pictures`; no label, layer or colour is longer
_NAME = 128  # characters of a field's name
_FIELDS = 128  # of one object
_ITEMS = 16_384  # commas and brackets
_DEPTH = 16


class Counter:
    """Counts items as a body streams in, so that one of too many is not waited for."""

    def __init__(self, most: int = _ITEMS) -> None:
        self._items, self.most = 0, most

    def take(self, data: bytes) -> None:
        """Count what a piece adds.

        Raises:
            TooLarge: it is more than any request is made of.
        """
        self._items += data.count(b",") + data.count(b"[") + data.count(b"{")
        if self._items > self.most:
            raise TooLarge(
                f"the JSON has more than {self.most:,} commas and opening brackets, and no request is made of as many"
            )


def parsed(data: bytes, what: str) -> dict[str, Any]:
    """Return the fields of a question that is a JSON object.

    Args:
        data: JSON.
        what: how it is called in errors.

    Raises:
        TooLarge: too many items.
        MalformedRequest: no JSON, no object, or too deep.
        InvalidParameter: a text, or a field's name, is too long.
    """
    found = loaded(data, what)
    check(found, what)
    return found


def loaded(data: bytes, what: str, most: int = _ITEMS) -> dict[str, Any]:
    """Return the fields of a JSON object of so many items at most, whatever it holds.

    Raises:
        TooLarge: too many items.
        MalformedRequest: no JSON, or no object.
    """
    Counter(most).take(data)
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"{what} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise MalformedRequest(f"{what} has to be a JSON object, not a {type(found).__name__}")
    return found


def check(fields: dict[str, Any], what: str) -> None:
    """Refuse what no question is made of: what is too deep or too long.

    Args:
        fields: of one question; `image` and `pictures` may be of any length.
        what: how they are called in errors.

    Raises:
        MalformedRequest: too deep.
        InvalidParameter: a text, or a field's name, is too long.
    """
    left: list[tuple[str, Any, int]] = [("", fields, 1)]
    while left:
        pointer, value, depth = left.pop()
        if isinstance(value, str):
            if len(value) > TEXT and pointer != "/image" and not pointer.startswith("/pictures/"):
                raise InvalidParameter.at(pointer, f"the text has {len(value):,} characters; at most {TEXT} are read")
        elif isinstance(value, dict | list):
            if depth > _DEPTH:
                raise MalformedRequest(f"{what} is nested more than {_DEPTH} deep, and no request is")
            if isinstance(value, dict):
                _check_names(value, pointer)
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(f"{pointer}/{escaped(name)}", one, depth + 1) for name, one in inner if _holds(one)]


def _check_names(value: dict[str, Any], pointer: str) -> None:
    if len(value) > _FIELDS:
        raise InvalidParameter.at(pointer, f"there are {len(value):,} fields; no object has more than {_FIELDS}")
    for name in value:
        if len(name) > _NAME:
            raise InvalidParameter.at(
                pointer, f"a field's name has {len(name):,} characters; none has more than {_NAME}"
            )


def _holds(value: Any) -> bool:
    return isinstance(value, str | dict | list)

"""What a request's JSON may be made of, whatever it says: so many items, so deep, and texts of so many characters.

All that follows, which checks fields against their types and words what is wrong with them, takes time by the number
of items and by their lengths. So these are bounded once, where a body is read, each and all together, and nothing
behind has to be.
"""

from typing import Any

import orjson

from service.ask.checking import without_pictures
from service.errors import InvalidParameter, MalformedRequest, TooLarge, escaped

TEXT = 256  # characters of any text but `image` and `pictures`; no label, layer or colour is longer
_NAME = 128  # characters of a field's name
_FIELDS = 128  # of one object
_ITEMS = 16_384  # commas and brackets
_CHARACTERS = 2**19  # of all texts and names together, but `image` and `pictures`: 32 an item
_DEPTH = 16


class Counter:
    """Counts items as a body streams in, so that one of too many is not waited for."""

    def __init__(self, most: int = _ITEMS, end: int | None = None) -> None:
        """Begin at a body's first byte.

        Args:
            most: items at most.
            end: how many bytes of the body are JSON; None: all of them.
        """
        self._items, self.most, self._left = 0, most, end

    def take(self, data: bytes) -> None:
        """Count what a piece adds.

        Raises:
            TooLarge: it is more than any request is made of.
        """
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
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
    check(found)
    return found


def loaded(data: bytes, what: str, most: int = _ITEMS) -> dict[str, Any]:
    """Return the fields of a JSON object of so many items at most, whatever it holds.

    Raises:
        TooLarge: too many items.
        MalformedRequest: no JSON, no object, or too deep.
    """
    Counter(most).take(data)
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"{what} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise MalformedRequest(f"{what} has to be a JSON object, not a {type(found).__name__}")
    _check_depth(found, what)
    return found


def _check_depth(found: dict[str, Any], what: str) -> None:
    """Refuse what is too deep, a level at a time: what follows may call itself once a level."""
    level: list[Any] = [found]
    for _ in range(_DEPTH):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise MalformedRequest(f"{what} is nested more than {_DEPTH} deep, and no request is")


def check(fields: dict[str, Any]) -> None:
    """Refuse what no question is made of: what is too long.

    Args:
        fields: of one question, as `loaded` returns them; `image` and each of `pictures` may be of any length.

    Raises:
        InvalidParameter: a text, or a field's name, is too long, or all of them together.
    """
    left: list[tuple[str, Any]] = [("", without_pictures(fields))]
    characters = 0
    while left:
        pointer, value = left.pop()
        if isinstance(value, str):
            if len(value) > TEXT:
                raise InvalidParameter.at(pointer, f"the text has {len(value):,} characters; at most {TEXT} are read")
            characters += len(value)
        elif isinstance(value, dict | list):
            if isinstance(value, dict):
                _check_names(value, pointer)
                characters += sum(map(len, value))
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(f"{pointer}/{escaped(name)}", one) for name, one in inner if _holds(one)]
        if characters > _CHARACTERS:
            raise InvalidParameter.at(
                "",
                f"all texts and fields' names together, but `image` and `pictures`, have more than {_CHARACTERS:,} "
                "characters, and no more are read; name fewer targets, or classes by their index",
            )


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

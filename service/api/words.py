"""What words of a command line say, in the types of a request."""

import json
import re
from collections.abc import Sequence
from typing import Any

from service.errors import InvalidParameter, quoted


def value(text: str) -> Any:
    """Return a parameter's value: JSON where it is, else a word."""
    try:
        return json.loads(text)
    except ValueError:  # no JSON, or more digits than Python reads
        return text


def target(text: str, labels: Sequence[str] = ()) -> Any:
    """Return a target: JSON where it begins as an object, else a label where there is one of that name, else an index.

    Raises:
        InvalidParameter: it begins as an object, and is none.
    """
    if text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise InvalidParameter.at(
                "/targets",
                f"target {quoted(text)} begins as a JSON object and is none ({error}); write it as in a request",
            ) from None
    named = text.casefold() in {label.casefold() for label in labels}
    return int(text) if re.fullmatch("-?[0-9]{1,18}", text) and not named else text

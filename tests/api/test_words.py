"""Words of a command line, as a request would say them."""

import pytest

from service.api.words import target, value
from service.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "found"),
    [("48", 48), ("[3, 7]", [3, 7]), ("true", True), ("mean", "mean"), ("", ""), ("9" * 5000, "9" * 5000)],
)
def test_values(text, found) -> None:
    assert value(text) == found


LABELS = ("0", "1", "10", "cat", "{odd}")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10", "10"),
        ("2", 2),
        ("-1", -1),
        ("CAT", "CAT"),
        ("dog", "dog"),
        ("²", "²"),
        ("9" * 30, "9" * 30),
        ('{"class": 2}', {"class": 2}),
        (' {"class": 2}', ' {"class": 2}'),
    ],
)
def test_targets(text, found) -> None:
    assert target(text, LABELS) == found
    assert target("10") == 10


def test_what_begins_as_json_is_json() -> None:
    with pytest.raises(InvalidParameter, match="begins as a JSON object and is none"):
        target("{odd}", LABELS)

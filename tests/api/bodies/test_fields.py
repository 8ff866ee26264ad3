"""Bounds on what JSON is made of: each is named where it is crossed, and what requests are made of is within them."""

import json
from typing import Any

import pytest

from service.api.bodies.fields import TEXT, Counter, escaped, loaded, parsed
from service.errors import InvalidParameter, MalformedRequest, TooLarge


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"image": "A" * 10**6, "pictures": ["A" * 10**6] * 16},
        {"targets": [{"box": [0.5, 1, 2, 3], "class": 17}] * 1024},
        {"params": {"channels": list(range(256)), "layer": "b" * TEXT}},
        {"targets": [{"class": i, "against": ["a label of twenty-two"] * 999} for i in range(16)]},
    ],
)
def test_requests_are_within_the_bounds(fields: dict[str, Any]) -> None:
    assert parsed(json.dumps(fields).encode(), "it") == fields


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"model": "b" * 257}, "/model", "257 characters; at most 256"),
        ({"params": {"layers": ["a", "b" * 257]}}, "/params/layers/1", "at most 256"),
        ({"targets": [{"a/b": {"c": "b" * 257}}]}, "/targets/0/a~1b/c", "at most 256"),
        ({"imagery": "b" * 257}, "/imagery", "at most 256"),
        ({"n" * 129: 1}, "", "129 characters; none has more than 128"),
        ({"params": {"n" * 10**6: 1}}, "/params", "1,000,000 characters"),
        ({"params": {str(i): 1 for i in range(129)}}, "/params", "129 fields"),
        ({"pictures": {"a": "b" * 257}}, "/pictures/a", "257 characters"),
        ({"pictures": [["b" * 257]]}, "/pictures/0/0", "257 characters"),
        ({"targets": ["b" * 256] * 2049}, "", "together.* more than 524,288 characters.*name fewer"),
        ({"params": {str(i): ["b" * 256] * 120 for i in range(127)}}, "", "together"),
        ({"pictures": [["b" * 256] * 2049]}, "", "together"),
        ({"params": {f"{i:0128}": {f"{j:0128}": 1 for j in range(100)} for i in range(100)}}, "", "together"),
    ],
)
def test_texts_names_and_fields(fields: dict[str, Any], pointer: str, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words) as error:
        parsed(json.dumps(fields).encode(), "it")
    assert [one.pointer for one in error.value.errors] == [pointer]
    assert len(str(error.value)) < 200


def test_depth_and_items() -> None:
    with pytest.raises(MalformedRequest, match="it is nested more than 16 deep"):
        parsed(b'{"a":' * 17 + b"0" + b"}" * 17, "it")
    assert parsed(b'{"a":' * 16 + b"0" + b"}" * 16, "it")
    for item in (b"0,", b"[],", b"{},"):
        with pytest.raises(TooLarge, match="commas and opening brackets"):
            parsed(b'{"a": [' + item * 16_384 + b"0]}", "it")


def test_items_are_counted_over_all_pieces() -> None:
    counter = Counter()
    for _ in range(16_384):
        counter.take(b"{")
    with pytest.raises(TooLarge):
        counter.take(b",")


def test_pointers() -> None:
    assert [escaped(name) for name in ("a", 3, "a/b~c")] == ["a", "3", "a~1b~0c"]


def test_no_depth_ends_in_the_way_it_is_looked_at() -> None:
    """Deeper than Python's own stack, in an object and in lists."""
    for deep in (b'{"a":' * 980 + b"0" + b"}" * 980, b'{"a":' + b"[" * 980 + b"]" * 980 + b"}"):
        with pytest.raises(MalformedRequest, match="deep"):
            loaded(deep, "it", 2**18)


def test_behind_the_json_nothing_is_counted() -> None:
    counter = Counter(2, end=3)
    for piece in (b"[", b",x,,,", b",,,,,,"):
        counter.take(piece)
    with pytest.raises(TooLarge):
        Counter(2, end=3).take(b",,,")

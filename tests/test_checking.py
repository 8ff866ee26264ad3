"""Fields are held against their type within bounds, whoever hands them in."""

from typing import Any

import pytest

from service.ask import request_schema
from service.ask.checking import checked
from service.errors import InvalidParameter
from service.explainers.base import registry

MAPS = request_schema(registry()["feature-maps"])


def test_fields_become_what_their_type_says() -> None:
    asked = checked(MAPS, {"params": {"channels": [3, 1]}, "image": "text that is not looked at"})
    assert asked.params.channels == (3, 1)
    assert asked.image == ""


def test_each_mistake_is_told_by_its_place() -> None:
    with pytest.raises(InvalidParameter) as caught:
        checked(MAPS, {"params": {"channels": [1, "x"], "top_k": 0}, "prioriti": 1})
    assert {one.pointer for one in caught.value.errors} == {"/params/channels/1", "/params/top_k", "/prioriti"}


@pytest.mark.parametrize(
    ("pointer", "fields"),
    [
        ("", {str(i): 1 for i in range(2000)}),
        ("/params", {"params": {str(i): 1 for i in range(2000)}}),
        ("/params/layers", {"params": {"layers": list(range(2000))}}),
        ("/params/channels", {"params": {"channels": ["x"] * 2000}}),
        ("/output", {"output": {str(i): 1 for i in range(2000)}}),
        ("/targets", {"targets": [None] * 2000}),
        ("/targets/0", {"targets": [{str(i): 1 for i in range(2000)}]}),
    ],
)
def test_members_beyond_any_bound_are_refused_before_each_is_told_as_a_mistake(monkeypatch, pointer, fields) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("no member is looked at")

    monkeypatch.setattr(MAPS, "model_validate", never)
    with pytest.raises(InvalidParameter, match="2,000 members; no list and no object takes more than 1,024") as caught:
        checked(MAPS, fields)
    assert [one.pointer for one in caught.value.errors] == [pointer]

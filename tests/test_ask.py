"""Asks: made of fields in one place, with every mistake named; HTTP, the command line and the gallery make no other."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from service import ask
from service.ask import Ask, request_schema
from service.client import wire
from service.errors import InvalidParameter, UnknownMethod
from service.explainers.base import registry
from service.explainers.perturbation.occlusion import Occlusion
from service.rendering import OutputOptions

SERVICE = Path(ask.__file__).parent.parent


def wrong(name: str, fields: Mapping[str, Any]) -> list[str]:
    """Return the pointers of what is wrong."""
    with pytest.raises(InvalidParameter) as caught:
        Ask.explain(name, fields) if name != "predict" else Ask.predict(fields)
    assert all(error.detail for error in caught.value.errors)
    return [error.pointer for error in caught.value.errors]


def test_an_ask_is_what_its_fields_say() -> None:
    fields = {
        "model": "some",
        "targets": [2, "tabby"],
        "params": {"window": 8, "stride": 4},
        "output": {"opacity": 0.25},
        "precision": "bf16",
        "timeout_s": 3,
        "priority": -2,
    }
    expected = Ask(
        Occlusion(window=8, stride=4),
        model="some",
        targets=(2, "tabby"),
        pictures=(b"file",),
        output=OutputOptions(opacity=0.25),
        precision="bf16",
        timeout_s=3.0,
        priority=-2,
    )
    assert Ask.explain("occlusion", fields, b"file") == expected
    assert Ask.explain("occlusion", fields | {"image": "text"}) == Ask.explain("occlusion", fields, "text")
    with pytest.raises(AttributeError):
        expected.model = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", registry())
def test_no_fields_are_the_defaults(name: str) -> None:
    assert Ask.explain(name, {}) == Ask(registry()[name]())
    assert Ask.explain(name, {"targets": None, "model": None}) == Ask(registry()[name]())


def test_a_prediction_is_asked_for_without_a_method() -> None:
    assert Ask.predict({"top_k": 3, "image": "abc"}) == Ask(None, pictures=("abc",), top_k=3)
    assert wrong("predict", {"params": {}}) == ["/params"]


def test_an_unknown_method() -> None:
    with pytest.raises(UnknownMethod, match="did you mean 'grad-cam'"):
        Ask.explain("grad-kam", {})


@pytest.mark.parametrize("name", [name for name, cls in registry().items() if not cls.needs_image])
def test_no_picture_where_none_is_needed(name: str) -> None:
    assert wrong(name, {"image": "abc"}) == ["/image"]
    with pytest.raises(InvalidParameter, match="leave it out"):
        Ask.explain(name, {}, b"file")


@pytest.mark.parametrize(
    ("fields", "pointers"),
    [
        ({"params": {"window": True, "stride": 1}}, ["/params/window"]),
        ({"params": {"window": "8", "stride": 8}}, ["/params/window"]),
        ({"params": {"window": 8.5, "stride": 8}}, ["/params/window"]),
        ({"output": {"opacity": False}}, ["/output/opacity"]),
        ({"output": {"overlay": "yes", "heatmap": 1}}, ["/output/heatmap", "/output/overlay"]),
        ({"timeout_s": "3"}, ["/timeout_s"]),
        ({"timeout_s": float("nan")}, ["/timeout_s"]),
        ({"targets": [0, True]}, ["/targets/1"]),
        ({"targets": [1], "params": {"windw": 3, "window": "8"}}, ["/params/windw", "/params/window"]),
        ({"a/b~": 1, "priority": 11}, ["/priority", "/a~1b~0"]),
    ],
)
def test_mistakes_are_all_named_and_no_type_stands_for_another(fields: Mapping[str, Any], pointers: list[str]) -> None:
    assert sorted(wrong("occlusion", fields)) == sorted(pointers)


def test_numbers_that_are_equal_are_taken() -> None:
    asked = Ask.explain("occlusion", {"params": {"window": 8.0, "stride": 4}, "timeout_s": 3})
    assert asked == Ask(Occlusion(window=8, stride=4), timeout_s=3.0)


def test_a_long_picture_is_not_looked_at() -> None:
    class Long(str):
        def __iter__(self):
            raise AssertionError("its letters were read")

        encode = split = __iter__  # type: ignore[assignment]

    text = Long("x" * 10)
    (sent,) = Ask.explain("cam", {"image": text}).pictures
    assert sent is text


# The strict check looks again only where a value changed its type: it has to find what a second, strict pass finds.

junk = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.sampled_from([1.0, 2.5, "1", "true", "8", "mean", "", "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@given(st.data())
@settings(max_examples=400, deadline=None, derandomize=True, database=None)
def test_what_is_taken_is_what_two_passes_take(data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from(list(registry().values())))
    names = [*cls.model_fields, "other"]
    fields = data.draw(
        st.dictionaries(st.sampled_from(["targets", "output", "timeout_s", "priority"]), junk, max_size=2)
    )
    fields["params"] = data.draw(st.dictionaries(st.sampled_from(names), junk, max_size=3))
    try:
        taken = Ask.explain(cls.name, fields).method
    except InvalidParameter:
        taken = None
    assert (taken is not None) == _two_passes(request_schema(cls), fields)


def _two_passes(schema: type[BaseModel], fields: Mapping[str, Any]) -> bool:
    """Whether a lax and a strict check take fields; a whole number may be written as 8.0."""
    import orjson

    try:
        schema.model_validate(fields)
        schema.model_validate_json(orjson.dumps(fields), strict=True)
    except ValidationError as error:
        return all(
            e["type"] in ("int_type", "int_from_float") and isinstance(e["input"], float)
            for e in error.errors(include_url=False)
        )
    return True


# One place


@pytest.mark.parametrize("file", ["cli.py", "gallery/__init__.py", "api/routes.py"])
def test_faces_make_asks_and_hand_in_fields(file: str) -> None:
    tree = ast.parse((SERVICE / file).read_text("utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "service.ask" in imported
    if not file.startswith("api/"):
        assert not imported & {"service.api.bodies.body", "service.client.wire", "service.api.routes"}


def test_requests_have_the_wires_fields() -> None:
    for cls in registry().values():
        assert set(request_schema(cls).model_fields) == set(wire.ExplainRequest.model_fields)

"""How methods are asked, for type checkers: generated, up to date, and right."""

import re

import pytest

from service.client import methods
from service.explainers.base import registry
from tests import openapi, stubs

METHODS = sorted(registry())


def test_the_stub_is_up_to_date():
    assert openapi.STUB.read_text("utf-8") == stubs.methods_stub(), "run python -m tests.openapi"


def test_every_method_and_parameter_is_named():
    text = stubs.methods_stub()
    for name, cls in registry().items():
        assert f'method: Literal["{name}"]' in text
        (block,) = re.findall(rf"class {cls.__name__}\(Options, total=False\):\n(.*?)\n(?=class )", text, re.DOTALL)
        assert re.findall(r"^    (\w+): ", block, re.MULTILINE) == list(cls.model_fields)


def test_a_parameter_may_not_hide_what_all_requests_have(monkeypatch):
    cls = next(iter(registry().values()))
    schema = {"properties": {"opacity": {"type": "number"}}}
    monkeypatch.setattr(cls, "model_json_schema", lambda: schema)
    with pytest.raises(ValueError, match="opacity"):
        stubs.methods_stub()


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "str | None"),
        ({"enum": ["a", "b"], "type": "string"}, 'Literal["a", "b"]'),
        ({"const": 3}, "Literal[3]"),
        ({"type": "array", "items": {"type": "integer"}}, "Sequence[int]"),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "integer"}]}, "Sequence[int]"),
    ],
)
def test_types_say_what_schemas_do(schema, kind):
    assert stubs._type(schema) == kind


def test_a_kind_that_nobody_has_thought_of_is_noticed():
    with pytest.raises(ValueError, match="no type is known"):
        stubs._type({"type": "object"})


def test_when_it_runs_a_function_stays_what_it_is():
    def function():
        return 3

    assert methods.typed(function) is function

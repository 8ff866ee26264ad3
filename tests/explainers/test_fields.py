from collections.abc import Iterator
from typing import Any

import pytest

from service.ask import Ask, request_schema
from service.comparison.asking import CompareRequest
from service.errors import InvalidParameter
from service.explainers.base import registry
from service.explainers.fields import DISTINCT, check_channels, layers_of
from tests import tiny

SHARED = ("layer", "layers", "score", "seed", "relu", "space", "hidden", "segments", "count")


@pytest.mark.parametrize("field", SHARED)
def test_a_shared_parameter_is_the_same_everywhere(field):
    """One description and one set of bounds, whatever the method; defaults may differ."""
    fields = {name: cls.model_fields[field] for name, cls in registry().items() if field in cls.model_fields}
    assert fields
    seen = {(info.description, str(info.annotation), str(info.metadata)) for info in fields.values()}
    if field == "hidden":  # what hides segments can show one thing more, each segment's own mean
        assert len(seen) == 2
        seen = {
            (described.partition(" `segment` ")[0], a, m.replace("^((", "^(").replace("|segment)$", "$"))
            for described, a, m in seen
        }
    assert len(seen) == 1, fields


@pytest.mark.parametrize("name", registry())
def test_every_parameter_is_described_and_has_a_default(name):
    for field, info in registry()[name].model_fields.items():
        assert info.description, field
        assert info.description[0] != " "
        assert info.description.endswith("."), field
        assert not info.is_required(), field


def test_layers_are_those_asked_for_or_the_default_one(small):
    facts = small(tiny.classifier).facts
    assert [info.path for info in layers_of((), facts)] == ["relu2"]
    assert [info.path for info in layers_of(("conv2", "bn1", "conv2"), facts)] == ["conv2", "bn1", "conv2"]
    with pytest.raises(InvalidParameter, match="did you mean 'conv2'") as met:
        layers_of(("bn1", "conv3"), facts)
    assert "/params/layers/1" in str(vars(met.value))


def test_a_channel_beyond_the_layer_is_refused_by_its_place_in_the_list(small):
    info = small(tiny.classifier).facts.layers["conv2"]
    check_channels((0, 11), info)
    with pytest.raises(InvalidParameter, match="channel 12 is out of range: layer 'conv2' has channels 0 to 11") as met:
        check_channels((0, 12), info)
    assert "/params/channels/1" in str(vars(met.value))


@pytest.mark.parametrize("name", registry())
def test_no_layer_and_no_channel_is_named_twice(name):
    """It would be looked at, drawn and sent twice, for one pass."""
    for field, value in (("layers", "a"), ("channels", 1)):
        if field in registry()[name].model_fields:
            with pytest.raises(InvalidParameter, match=rf"{value!r} is named twice") as caught:
                Ask.explain(name, {"params": {field: [value, value]}})
            assert [one.pointer for one in caught.value.errors] == [f"/params/{field}"]


def functions(schema: Any) -> Iterator[Any]:
    """Give what each function of a pydantic schema, or of a part of it, is handed: the schema behind it."""
    if isinstance(schema, dict):
        if str(schema.get("type", "")).startswith("function-"):
            yield schema.get("schema")
        for part in schema.values():
            yield from functions(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            yield from functions(part)


@pytest.mark.parametrize(
    "schema", [*map(request_schema, registry().values()), CompareRequest], ids=lambda s: s.__name__
)
def test_no_function_is_handed_a_list_of_any_length(schema):
    """They look at one member after the other, or at each with all others; bounds that come behind are too late."""
    handed = [one for one in functions(schema.__pydantic_core_schema__) if one and one["type"] in ("list", "tuple")]
    assert all("max_length" in one or _fixed(one) for one in handed), handed


def test_functions_are_found_where_there_are_some():
    found = functions(request_schema(registry()["feature-maps"]).__pydantic_core_schema__)
    assert [one["max_length"] for one in found if one and one["type"] == "tuple"] == [16, 256]


def _fixed(schema: Any) -> bool:
    return schema["type"] == "tuple" and "variadic_item_index" not in schema


class Counted:
    """Counts how often it is compared."""

    times = 0

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        Counted.times += 1
        return self is other


def test_to_find_what_is_named_twice_takes_no_look_at_all_others():
    Counted.times = 0
    many = tuple(Counted() for _ in range(256))
    assert DISTINCT.func(many) == many
    assert Counted.times < 2 * len(many)
    with pytest.raises(ValueError, match="is named twice"):
        DISTINCT.func((*many, many[7]))

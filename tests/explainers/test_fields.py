import pytest

from service.ask import Ask
from service.errors import InvalidParameter
from service.explainers.base import registry
from service.explainers.fields import check_channels, layers_of
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

import pytest
from pydantic import ValidationError

from service.contract import Explanation
from service.errors import UnknownMethod
from service.explainers.base import Explainer, explainer, identifier, method, registry
from tests import tiny


@pytest.mark.parametrize(
    ("name", "written"),
    [("cam", "cam"), ("grad-cam", "grad_cam"), ("grad-cam++", "grad_cam_plus_plus"), ("a++-b", "a_plus_plus_b")],
)
def test_identifier(name, written):
    assert identifier(name) == written
    assert written.isidentifier()


@pytest.mark.parametrize("name", registry())
def test_every_method_says_what_it_is(name):
    cls = method(name)
    assert cls is registry()[name]
    assert cls.name == name
    assert cls.__module__ == f"service.explainers.{cls.family}.{identifier(name)}"
    for text in (cls.reference, cls.requirement, cls.cost, cls.__doc__):
        assert text
        assert text.strip()


def test_identifiers_are_unique():
    assert len({identifier(name) for name in registry()}) == len(registry())


def test_an_unknown_method_is_refused_with_a_suggestion():
    with pytest.raises(UnknownMethod, match=r"did you mean 'grad-cam'.*There are: .*\bcam, "):
        method("grad-can")


def test_a_name_is_taken_once():
    another = type("Another", (Explainer,), {"__module__": "service.explainers.cam.another"})
    with pytest.raises(ValueError, match="two explainers are called 'cam'"):
        explainer("cam", reference="-", requirement="-", cost="-")(another)


@pytest.mark.parametrize("name", registry())
def test_a_request_is_frozen_and_takes_no_unknown_parameter(name):
    cls = registry()[name]
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        cls(unheard_of=1)
    asked = cls()
    with pytest.raises(ValidationError, match="frozen"):
        asked.name_of_nothing = 1
    assert hash(asked) == hash(cls())


def test_resolved_names_the_layer_that_was_used(small):
    facts = small(tiny.classifier).facts
    for name, cls in registry().items():
        resolved = cls().resolved(facts)
        assert resolved.keys() == cls.model_fields.keys(), name
        assert resolved.get("layer", "relu2") == "relu2", name
        assert resolved.get("layers", ["relu2"]) == ["relu2"], name
        assert isinstance(cls(**resolved), cls)  # what was used can be asked for again


def test_a_method_is_what_its_file_registers():
    class Nothing(Explainer):
        def passes(self, facts, targets):
            return 0

        def explain(self, probe, image, targets):
            return Explanation(())

    assert Nothing not in registry().values()
    assert not Nothing().tolerates_reduced_precision()
    assert Nothing.require(None) is None

"""Every method can be made cheap enough, or says what it takes."""

import pytest

from service.explainers.base import registry
from service.pipeline import applicability
from service.sanity.cutting import MOST, Strongest, cut


@pytest.mark.parametrize("name", registry())
def test_every_method_of_the_embedded_model_is_cheap_enough(embedded, name) -> None:  # type: ignore[no-untyped-def]
    facts = embedded.store.get(None).facts
    if applicability(facts)[name] is not None or not registry()[name].needs_image:
        pytest.skip("it does not apply")
    method, said, passes, strongest = cut(registry()[name]().settled(facts), facts)
    assert passes <= MOST
    assert bool(said) == (registry()[name]().passes(facts, 1) > MOST)
    assert strongest == any(text.startswith("channels") for text in said)
    assert method.passes(facts, 1) <= MOST or strongest


def test_only_the_strongest_maps_are_seen() -> None:
    assert Strongest.channels == MOST

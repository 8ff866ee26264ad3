"""Every method can be made cheap enough, or says what it takes."""

import pytest

from service.explainers.base import registry
from service.pipeline import applicability
from service.sanity.cutting import MOST, cut


@pytest.mark.parametrize("name", registry())
def test_every_method_of_the_embedded_model_is_cheap_enough(embedded, name) -> None:  # type: ignore[no-untyped-def]
    facts = embedded.store.get(None).facts
    if applicability(facts)[name] is not None or not registry()[name].needs_image:
        pytest.skip("it does not apply")
    method, said, passes, channels = cut(registry()[name]().settled(facts), facts)
    assert passes <= MOST
    assert bool(said) == (registry()[name]().passes(facts, 1) > MOST)
    assert (channels is not None) == any(text.startswith("channels") for text in said)
    assert channels is None or any(f"the {channels} strongest" in text for text in said)
    assert method.passes(facts, 1) <= MOST or channels is not None


def test_so_many_channels_are_left_as_their_passes_allow(embedded) -> None:  # type: ignore[no-untyped-def]
    facts = embedded.store.get(None).facts
    method, said, passes, channels = cut(registry()["score-cam"]().settled(facts), facts)
    whole = facts.layer(method.layer).shape[0]  # type: ignore[attr-defined]
    assert method.passes(facts, 1) == whole + 2
    assert (channels, passes) == (MOST * whole // (whole + 2), MOST)
    assert said == [f"channels: the {channels} strongest ones of {whole}"]

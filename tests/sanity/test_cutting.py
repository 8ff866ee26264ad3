"""Every method can be made cheap enough, or says what it takes."""

import pytest

from service.explainers.base import registry
from service.pipeline import applicability
from service.sanity.cutting import MOST, cut
from service.sanity.verifier import BUDGET, Verifier
from service.settings import Settings


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


def test_all_methods_of_the_embedded_model_are_within_the_budget(embedded) -> None:  # type: ignore[no-untyped-def]
    """None of those that apply is left out, and what is expected of all of them is no more than may be spent."""
    model = embedded.store.get(None)
    left: dict[str, object] = {}
    kept = Verifier(embedded.device, Settings())._asked(model, list(registry()), left)  # type: ignore[arg-type]
    applies = {name for name, reason in applicability(model.facts).items() if reason is None}
    assert kept.keys() == {name for name in applies if registry()[name].needs_image}
    # Eight pictures: the map, that of a low class, and those of one or of all four permuted networks.
    assert sum(8 * one.passes * (6 if one.passes <= 64 else 3) for one in kept.values()) <= BUDGET == 80_000

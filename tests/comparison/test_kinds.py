"""Every method there is, on networks of every kind: each map has its numbers, or the reason why it has none."""

import math

import pytest

from service.errors import NotApplicable
from service.explainers.base import registry
from service.faithfulness import curves
from service.sanity.cutting import cut
from tests.comparison.conftest import compare

AT_ONCE = 25  # methods


def _quick(name, facts):  # type: ignore[no-untyped-def]
    """Return a method as one asks for it who has little time."""
    method = registry()[name]()
    try:
        quick, *_ = cut(method.settled(facts), facts)
    except NotApplicable:
        return name
    return {"method": name, "params": {k: v for k, v in quick.model_dump().items() if v != getattr(method, k)}}


@pytest.mark.parametrize("first", range(0, len(registry()), AT_ONCE))
@pytest.mark.parametrize(("model", "targets"), [("tiny", [1, {"class": 3, "against": [0]}]), ("tiny-regression", None)])
def test_every_method_has_numbers_or_reasons(tiny, monkeypatch, model, targets, first) -> None:
    monkeypatch.setattr(curves, "LEAST_ODDS", 0)  # the networks hardly look at the picture
    monkeypatch.setattr(curves, "LEAST_SHARE", 0)
    facts = tiny.store.get(model).facts
    names = sorted(registry())[first : first + AT_ONCE]
    found = compare(tiny, model=model, targets=targets, methods=[_quick(name, facts) for name in names])
    assert [one.method for one in found.entries] == names
    for one in found.entries:
        if one.problem is not None:
            assert one.problem.type == "not-applicable", one.problem.detail
            continue
        aims = registry()[one.method].takes_targets
        assert len(one.faithfulness) == len(one.answer.maps) >= 1
        assert not aims or len(one.faithfulness) == len(targets or [0])
        for shown, numbers in zip(one.answer.maps, one.faithfulness, strict=True):
            both = [numbers.gain.blur, numbers.gain.mean]
            assert all(value is None or math.isfinite(value) for value in both)
            assert (None in both) == (numbers.gain.reason is not None)
            if shown.map.target is None or shown.map.kind in ("grid", "rgb"):
                assert both == [None, None]

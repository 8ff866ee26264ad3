"""`faithfulness` in a request for an explanation: the numbers that a comparison has, too."""

import httpx
import pytest

from service.client import wire
from service.explainers.base import registry
from tests.api.test_contract import answer, post
from tests.comparison.conftest import compare

SOME = ["grad-cam", "saliency", "eigen-cam", "filters", "feature-maps", "occlusion"]


@pytest.mark.parametrize("method", SOME)
def test_every_map_has_its_numbers_or_a_reason(client: httpx.Client, method: str) -> None:
    found = wire.ExplainResponse.model_validate(answer(client, method, faithfulness=True))
    for one in found.maps:
        assert one.faithfulness is not None
        gain, aims = one.faithfulness.gain, registry()[method].takes_targets
        assert gain.reason is not None or (gain.blur is not None and gain.mean is not None)
        assert (one.faithfulness.controls is not None) == aims
        assert aims or "target" in (gain.reason or "") or "picture" in (gain.reason or "")


def test_they_are_those_of_a_comparison(client: httpx.Client, tiny) -> None:  # type: ignore[no-untyped-def]
    found = wire.ExplainResponse.model_validate(answer(client, "grad-cam", faithfulness=True, targets=[1, 3]))
    other = compare(tiny, methods=["grad-cam"], targets=[1, 3], model="tiny")
    for one, two, controls in zip(found.maps, other.entries[0].faithfulness, other.controls, strict=True):
        assert one.faithfulness is not None
        for name in ("blur", "mean"):
            value, expected = getattr(one.faithfulness.gain, name), getattr(two.gain, name)
            assert value == (None if expected is None else pytest.approx(expected, rel=0.05, abs=0.05))
        assert one.faithfulness.controls is not None
        assert one.faithfulness.controls.target.index == controls.target.index


def test_who_does_not_ask_is_not_told(client: httpx.Client) -> None:
    assert "faithfulness" not in answer(client, "grad-cam")["maps"][0]


def test_formats_that_show_no_numbers_find_none(client: httpx.Client) -> None:
    assert post(client, "grad-cam", "image/png", faithfulness=True).status_code == 200
    assert post(client, "grad-cam", faithfulness="yes").status_code == 422

"""A comparison's types: what a request may say."""

import pytest
from pydantic import ValidationError

from service.client import wire


def test_methods_are_names_or_names_with_parameters() -> None:
    asked = wire.CompareRequest.model_validate({"methods": ["cam", {"method": "occlusion", "params": {"window": 48}}]})
    assert asked.methods == ["cam", wire.CompareMethod(method="occlusion", params={"window": 48})]
    assert wire.CompareRequest().methods is None


@pytest.mark.parametrize(
    "fields",
    [{"methods": []}, {"methods": ["cam"] * 33}, {"metrics": ["stars"]}, {"box": [1, 2, 3]}, {"params": {}}],
    ids=str,
)
def test_what_a_comparison_is_not(fields) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValidationError):
        wire.CompareRequest.model_validate(fields)

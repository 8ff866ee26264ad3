"""A method made cheap enough to be tested: fewer samples, steps or channels, which its verdict says."""

from __future__ import annotations

from pydantic import ValidationError

from service.contract import Facts
from service.explainers.base import Explainer
from service.explainers.cam.masking.masks import MaskedCAM

MOST = 200  # passes of a map
# Of what there may be fewer, what costs a map least first.
_FEWER = ("samples", "masks", "designs", "evaluations", "steps", "groups", "count", "cells")


def cut(method: Explainer, facts: Facts, targets: int = 1) -> tuple[Explainer, list[str], int, int | None]:
    """Make a method cheap.

    Returns:
        The method, what was cut, how many passes a map takes, and how many channels are looked at, the strongest ones;
        None: all.
    """
    said: list[str] = []
    for name in _FEWER:
        before = getattr(method, name, None)
        while method.passes(facts, targets) > MOST * targets:
            value = getattr(method, name, None)
            if isinstance(value, bool) or not isinstance(value, int):
                break
            smaller = _with(method, name, value // 2)
            if smaller is None:
                break
            method = smaller
        if getattr(method, name, None) != before:
            said.append(f"{name}: {getattr(method, name)} instead of {before}")
    passes = method.passes(facts, targets)
    if passes > MOST * targets and isinstance(method, MaskedCAM):
        info = facts.layer(getattr(method, "layer", None))
        channels = max(1, MOST * info.shape[0] * targets // passes)
        said.append(f"channels: the {channels} strongest ones of {info.shape[0]}")
        return method, said, MOST * targets, channels
    return method, said, passes, None


def _with(method: Explainer, name: str, value: int) -> Explainer | None:
    """Return the same method with another value; None where it may not have it."""
    try:
        return type(method).model_validate({**method.model_dump(), name: value})
    except ValidationError:
        return None

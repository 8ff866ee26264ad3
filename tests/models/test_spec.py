"""What a specification holds where nobody says more."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn

from service.images import Transform
from service.models.spec import ModelSpec
from service.tasks import task


def test_defaults_say_nothing_and_share_nothing() -> None:
    transform = Transform(32, (32, 32), (0.5,) * 3, (0.5,) * 3)
    one, other = (ModelSpec("m", nn.Identity, transform, task("classification")) for _ in range(2))
    one.said.append("x")
    assert other.said == []
    assert (one.assumed, one.scale, one.output, one.mistake) == ((), None, None, None)
    assert one.identity(torch.nn.Identity()) == b""
    error = ValueError("x")
    assert one.refusal(nn.Identity(), error) is error
    with pytest.raises(FrozenInstanceError):
        one.name = "n"  # type: ignore[misc]

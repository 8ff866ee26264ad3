"""Exported networks take one picture, wherever it was when they were exported."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.models.exported.inputs import arranged, chosen
from service.models.networks.forms import served
from tests.models.exported.doubles import X, saved, tiny


class Takes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny()

    def forward(self, batch: Any, factor: Any = 1, *, pixels: Any = None) -> Tensor:
        x = batch["x"] if isinstance(batch, dict) else pixels if batch is None else batch
        return self.inner(x) * factor


BATCH = {0: torch.export.Dim("batch")}
TAKEN: dict[str, tuple[tuple[Any, ...], dict[str, Any], Any]] = {
    "a name": ((None,), {"pixels": X}, {"batch": None, "pixels": BATCH}),
    "a dictionary": (({"x": X},), {}, ({"x": BATCH},)),
    "a plain value": ((X, 3), {}, (BATCH, None)),
    "a named value": ((X,), {"factor": 3}, {"batch": BATCH, "factor": None}),
    "its own name": ((), {"batch": X}, {"batch": BATCH}),
}


@pytest.mark.parametrize("how", TAKEN)
def test_the_picture_goes_where_it_was_exported(how: str) -> None:
    args, named, shapes = TAKEN[how]
    program = saved(torch.export.export(Takes().eval(), args, named, dynamic_shapes=shapes))
    assert not chosen(program)
    network, _ = served(arranged(torch.export.unflatten(program), program), "m")
    for one in (network, copy.deepcopy(network)):
        torch.testing.assert_close(one(X[:2]), Takes().eval()(*args, **named)[:2])


def test_numbers_that_a_caller_chooses_are_named() -> None:
    shapes = (BATCH, torch.export.Dim.DYNAMIC)
    assert chosen(torch.export.export(Takes().eval(), (X, 3), dynamic_shapes=shapes)) == ["factor"]

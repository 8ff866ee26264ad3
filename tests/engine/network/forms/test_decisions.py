"""Values that are taken out of pictures are noticed, however they are; those of anything else do not count."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from service.engine.network.forms.decisions import Decisions
from tests import tiny

X = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
KEPT = torch.zeros(1, 3, 32, 32)


def found(run):
    with torch.inference_mode():
        x = X.clone()
        deciding = Decisions(x)
        with deciding:
            run(x)
    return deciding.found


def written(x):
    kept = KEPT.clone()
    kept[0].copy_(x[0])
    return int(kept.argmax())


DECIDE = {
    "bool": lambda x: 1 if x.mean() > 0 else 2,
    "any": lambda x: bool((x > 5).any()),
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.view(-1)[3]),
    "index": lambda x: [0, 1, 2][x.flatten(1).argmax(1) % 3],
    "through a layer": lambda x: bool(tiny.classifier()(x).argmax() == 2),
    "written elsewhere": written,
    "in place": lambda x: bool(x.mul_(0).sum() == 0),
    "equal": lambda x: torch.equal(x, KEPT),
    "a list": lambda x: max(x.mean((2, 3)).tolist()[0]),
    "an array": lambda x: x.detach().numpy().mean(),
    "an array by NumPy": lambda x: np.asarray(x[0]).max(),
    "a branch of an operator": lambda x: torch.ops.higher_order.cond(x.sum() > 0, torch.neg, torch.abs, (x,)),
    "an array by protocol": lambda x: np.from_dlpack(x.clone()).max(),
}


@pytest.mark.parametrize("how", DECIDE)
def test_values_of_the_picture_are_noticed(how) -> None:
    assert found(DECIDE[how])


SOUND = {
    "plain": lambda x: tiny.classifier()(x),
    "tokens": lambda x: tiny.tokens()(x),
    "its size by an operator": lambda x: x if torch.ops.aten.sym_size.int(x, 2) > 16 else -x,
    "its size": lambda x: x if x.shape[2] > 16 and len(x) == 1 else -x,
    "a constant": lambda x: x if bool(KEPT.sum() == 0) else -x,
    "a constant's list": lambda x: x if KEPT.tolist() and KEPT.numpy().any() else -x,
    "its size as a list": lambda x: torch.tensor(x.shape).tolist(),
    "where": lambda x: torch.where(x > 0.5, x, -x),
    "a mask": lambda x: x[x > 0.5].sum() + torch.nonzero(x).sum(),
    "dropout that rests": lambda x: F.dropout(x, training=False),
}


@pytest.mark.parametrize("how", SOUND)
def test_nothing_else_counts(how) -> None:
    assert found(SOUND[how]) == []


def test_decisions_inside_of_torchscript() -> None:
    class Turns(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if bool(x.sum() > 0):
                return x
            return -x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        turns = torch.jit.script(Turns())
        assert found(turns)

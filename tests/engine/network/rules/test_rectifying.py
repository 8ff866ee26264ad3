"""Each rule's backward is that of the rule written out by hand, however the network calls its rectifier."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from service.contract import Rule
from service.engine.network.rules import rule_mode


def _assigned(a: torch.Tensor, where: torch.Tensor, value: float = 0) -> torch.Tensor:
    a[where] = value
    return a


CALLS = {
    "F.relu": (F.relu, None),
    "F.relu in place": (lambda a: F.relu(a, inplace=True), None),
    "torch.relu": (torch.relu, None),
    "Tensor.relu_": (torch.Tensor.relu_, None),
    "module": (nn.ReLU(), None),
    "module in place": (nn.ReLU(inplace=True), None),
    "ReLU6": (nn.ReLU6(), 6.0),
    "ReLU6 in place": (nn.ReLU6(inplace=True), 6.0),
    "hardtanh": (lambda a: F.hardtanh(a, 0.0, 2.0), 2.0),
    "clamp": (lambda a: a.clamp(min=0), None),
    "clamp_ with a ceiling": (lambda a: a.clamp_(0, 4), 4.0),
    "clip": (lambda a: a.clip(min=0), None),
    "torch.clip with a ceiling": (lambda a: torch.clip(a, 0, 3), 3.0),
    "threshold": (lambda a: F.threshold(a, 0.0, 0.0), None),
    "threshold in place": (nn.Threshold(0, 0, inplace=True), None),
    "maximum": (lambda a: torch.maximum(a, torch.zeros_like(a)), None),
    "zero first": (lambda a: torch.maximum(torch.zeros(()), a), None),
    "max of two": (lambda a: torch.max(a, other=a.new_zeros(1)), None),
    "fmax": (lambda a: a.fmax(torch.zeros_like(a)), None),
    "where": (lambda a: torch.where(a > 0, a, 0.0), None),
    "where it is not": (lambda a: torch.where(a <= 0, torch.zeros_like(a), a), None),
    "Tensor.where": (lambda a: a.where(a >= 0, 0.0), None),
    "times where above zero": (lambda a: a * (a > 0), None),
    "where above zero times": (lambda a: (a >= 0).to(a) * a, None),
    "times where above zero, by names": (lambda a: torch.mul(input=a, other=a > 0), None),
    "times where above zero in place": (lambda a: a.mul_(a > 0), None),
    "an assignment": (lambda a: _assigned(a, a < 0), None),
    "masked_fill": (lambda a: a.masked_fill(a < 0, 0), None),
    "masked_fill_": (lambda a: a.masked_fill_(a <= 0, value=0.0), None),
}


def _by_hand(rule, a, g, ceiling):
    """The signal behind a rectifier of a, given the one before it."""
    is_open = a > 0 if ceiling is None else (a > 0) & (a < ceiling)
    return {
        "deconvnet": g.clamp(min=0),
        "guided": g.clamp(min=0) * is_open,
        "linear": g,
        "leaky": torch.where(is_open, g, 0.01 * g),
    }[rule]


@pytest.mark.parametrize("rule", ["deconvnet", "guided", "linear", "leaky"])
@pytest.mark.parametrize("call", CALLS)
def test_rectifiers_follow_the_rule(rule, call) -> None:
    rectify, ceiling = CALLS[call]
    generator = torch.Generator().manual_seed(0)
    x, first, second = (torch.randn(2, 6, 5, 5, generator=generator) * 4 for _ in range(3))
    leaf = x.clone().requires_grad_()
    with rule_mode(Rule(rule), x):
        a = leaf * first
        kept = a.detach().clone()
        y = rectify(a)
    assert torch.equal(y, kept.clamp(0, ceiling))
    (found,) = torch.autograd.grad((y * second).sum(), leaf)
    torch.testing.assert_close(found, _by_hand(rule, kept, second, ceiling) * first)


def test_two_rectifiers_in_a_row_and_what_is_none() -> None:
    x = torch.tensor([[-1.0, 2.0, 3.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 1.0, 1.0], [0.0, -1.0, 1.0], [2.0, 0.0, 0.0]])
    with rule_mode(Rule("guided"), x):
        hidden = F.relu(x) @ weight.T  # (5, 1, 0)
        y = (F.relu(hidden) * torch.tensor([1.0, -1.0, 1.0])).sum() + torch.tanh(x).sum()
    (found,) = torch.autograd.grad(y, x)
    # By hand: the second rectifier passes (1, 0, 0); the first one that through the weights, where x is above zero.
    expected = torch.tensor([[0.0, 1.0, 1.0]]) + (1 - torch.tanh(x.detach()) ** 2)
    torch.testing.assert_close(found, expected)


def test_outside_the_block_the_derivative_is_back() -> None:
    x = torch.tensor([-1.0, 1.0], requires_grad=True)
    with rule_mode(Rule("linear"), x):
        pass
    (found,) = torch.autograd.grad(F.relu(x).sum(), x)
    assert found.tolist() == [0.0, 1.0]


NONE = {
    "of features": lambda a: torch.maximum(a, a.flip(1)),
    "of a constant": lambda a: torch.maximum(a, torch.ones(())),
    "over an axis": lambda a: torch.max(a, 1).values.sum() + a,
    "larger than the picture": lambda a: torch.maximum(a[:1, :1], torch.zeros(2, 6, 1, 1)),
    "another choice": lambda a: torch.where(a > 1, a, 0.0),
    "a gate of something else": lambda a: a * (a.flip(1) > 0),
    "a gate of features": lambda a: a * a.sigmoid(),
    "a gate that is overwritten": lambda a: (a > 0).to(a).mul_(a),
    "a mask that hides nothing": lambda a: a.abs().masked_fill(torch.zeros_like(a).bool(), 0),
    "ones": lambda a: a.abs() * torch.ones_like(a),
    "an assignment of something else": lambda a: _assigned(a, a < 0, 1),
    "an assignment elsewhere": lambda a: _assigned(a, a.flip(1) < 0),
    "a mask of something else": lambda a: a.masked_fill(a.flip(1) < 0, 0),
    "threshold": lambda a: F.threshold(a, 0.5, 0.0),
}


@pytest.mark.parametrize("call", NONE)
def test_what_is_like_a_rectifier_and_is_none(call) -> None:
    x = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with rule_mode(Rule("guided"), x):
        y = NONE[call](x * 1)
    found, expected = (torch.autograd.grad(-one.square().sum(), x)[0] for one in (y, NONE[call](x * 1)))
    torch.testing.assert_close(found, expected)

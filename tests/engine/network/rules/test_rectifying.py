"""Each rule's backward is that of the rule written out by hand, however the network calls its rectifier."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from service.contract import Rule
from service.engine.network.rules import rule_mode

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

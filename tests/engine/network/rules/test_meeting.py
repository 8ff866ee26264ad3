"""Calls are met however they are written down: by position, or by the name of their first argument."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from service.contract import Relevance, Rescale, Share
from service.engine.network.rules import rule_mode

RULES = {"relevance": Relevance(Share(epsilon=1e-12), Share(epsilon=1e-12)), "rescaling": Rescale()}
CALLS = {
    "layer_norm": (lambda t: F.layer_norm(t, (4, 4)), lambda t: F.layer_norm(input=t, normalized_shape=(4, 4))),
    "group_norm": (lambda t: F.group_norm(t, 2), lambda t: F.group_norm(input=t, num_groups=2)),
    "instance_norm": (lambda t: F.instance_norm(t, eps=1e-3), lambda t: F.instance_norm(input=t, eps=1e-3)),
    "instance_norm of torch's": (
        lambda t: F.instance_norm(t, weight=WEIGHT[0, :, 0, 0], bias=WEIGHT[0, :, 1, 1]),
        lambda t: torch.instance_norm(t, WEIGHT[0, :, 0, 0], WEIGHT[0, :, 1, 1], None, None, True, 0.1, 1e-5, False),
    ),
    "relu": (F.relu, lambda t: F.relu(input=t)),
    "silu in place": (lambda t: F.silu(t, inplace=True), lambda t: F.silu(input=t, inplace=True)),
    "softmax": (lambda t: F.softmax(t, 1), lambda t: F.softmax(input=t, dim=1)),
    "max_pool2d": (lambda t: F.max_pool2d(t, 2), lambda t: F.max_pool2d(input=t, kernel_size=2)),
    "conv2d": (lambda t: F.conv2d(t, WEIGHT), lambda t: F.conv2d(input=t, weight=WEIGHT)),
    "sum": (lambda t: torch.sum(t, 1), lambda t: torch.sum(input=t, dim=1)),
}
WEIGHT = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(1))


def _met(call, rule) -> tuple[Tensor, Tensor]:
    x = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with rule_mode(rule, x):
        y = call(x * 1)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    return y.detach(), gradient


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_by_name_is_the_call(name, rule):
    by_position, by_name = (_met(call, rule) for call in CALLS[name])
    torch.testing.assert_close(by_name, by_position, rtol=0, atol=0)
    assert by_name[1].any()

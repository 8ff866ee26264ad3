import functools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.explainers.propagation.attn_lrp import AttnLRP
from tests import relevances, tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.oracles import Case
from tests.transformers import Block, Vision

TOLERANCE = 1e-3  # shares of nearly nothing, in single precision against double


def tolerance(case: Case) -> float:
    """Return what to allow for single precision."""
    return relevances.tolerance(case, TOLERANCE)


def oracle(case: Case) -> Tensor:
    """Relevance by the gamma rules by hand, from one operator to the one before; a network without attention."""
    linear = functools.partial(relevances.gamma, strength=case.params.get("gamma_linear", 0.05))
    convolution = functools.partial(relevances.gamma, strength=case.params.get("gamma_convolution", 0.25))
    return relevances.propagated(case, linear, convolution).sum(0)


@pytest.mark.oracle("attn-lrp")
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg])
def test_equals_relevance_by_hand(small, network):
    subject = small(network)
    found = subject.explain(AttnLRP(gamma_convolution=1, gamma_linear=0.5), tiny_input(), [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        params = {"gamma_convolution": 1, "gamma_linear": 0.5}
        assert_close(m.array, oracle(Case(subject.plain, tiny_input(), target=target, params=params)), 5e-6)


def _linear(x: Tensor, w: Tensor, b: Tensor | None, r: Tensor, gamma: float) -> Tensor:
    """Share by the gamma rule: relevances, not signals."""
    return relevances.gamma(F.linear, x, w, b, r, gamma)


def _norm(module: nn.LayerNorm, x: Tensor, r: Tensor) -> Tensor:
    """Share in (x - mean) * weight / deviation + bias, one input of one output after the other."""
    width = x.shape[-1]
    deviation = (x.var(-1, unbiased=False, keepdim=True) + module.eps).sqrt()
    centred = torch.eye(width).to(x) - 1 / width  # (output, input)
    parts = x[..., None, :] * centred * (module.weight / deviation)[..., None]
    return (parts * (r / module(x))[..., None]).sum(-2)


def _block(block: Block, x: Tensor, r: Tensor, gamma: float) -> Tensor:
    """Propagate through x + attention(norm(x)), x + mlp(norm(x)): (T, C) each."""
    heads, width = block.heads, x.shape[1] // block.heads
    n = block.norm1(x)
    q, k, v = (t.view(len(x), heads, width).transpose(0, 1) for t in block.qkv(n).chunk(3, -1))  # (heads, T, d)
    z = q @ k.mT / math.sqrt(width)
    a = z.softmax(-1)
    o = a @ v
    attended = block.out(o.transpose(0, 1).flatten(1))
    y = x + attended
    m = block.norm2(y)
    hidden = block.up(m)
    changed = block.down(F.gelu(hidden))
    # The second half
    total = y + changed
    r_changed, r_y = r * changed / total, r * y / total
    r_hidden = _linear(F.gelu(hidden), block.down.weight, block.down.bias, r_changed, gamma)
    r_y = r_y + _norm(block.norm2, y, _linear(m, block.up.weight, block.up.bias, r_hidden, gamma))
    # The first half
    r_attended, r_x = r_y * attended / y, r_y * x / y
    flat = _linear(o.transpose(0, 1).flatten(1), block.out.weight, block.out.bias, r_attended, gamma)
    r_o = flat.view(len(x), heads, width).transpose(0, 1)
    parts = a[..., None] * v[:, None] * (r_o / o)[:, :, None] / 2  # (heads, query, key, d)
    r_a, r_v = parts.sum(-1), parts.sum(1)
    r_z = z * (r_a - a * r_a.sum(-1, keepdim=True))
    parts = q[:, :, None] * k[:, None] / math.sqrt(width) * (r_z / z)[..., None] / 2
    r_q, r_k = parts.sum(2), parts.sum(1)
    r_qkv = torch.cat([t.transpose(0, 1).flatten(1) for t in (r_q, r_k, r_v)], -1)
    return r_x + _norm(block.norm1, x, _linear(n, block.qkv.weight, block.qkv.bias, r_qkv, gamma))


@pytest.mark.oracle("attn-lrp")
@pytest.mark.parametrize("gamma", [0.0, 0.05])
@pytest.mark.parametrize("how", ["fused", "open", "module"])
def test_equals_relevance_through_attention_by_hand(small, how, gamma):
    """However a network makes its attention."""

    def vision() -> nn.Module:
        return Vision(how)

    subject = small(vision)
    found = subject.explain(AttnLRP(gamma_convolution=gamma, gamma_linear=gamma), tiny_input(), [2]).maps[0].array
    with torch.no_grad():
        network: Vision = Vision("open").double()
        x = tiny_input().double()
        patches = network.patches(x).flatten(2).mT[0]
        tokens = [torch.cat([network.token[0], patches]) + network.places[0]]
        for block in network.blocks:
            tokens.append(block(tokens[-1][None])[0])
        read = network.norm(tokens[-1])
        r = torch.zeros_like(read)
        y = network.head(read[:1])
        start = torch.zeros_like(y)
        start[0, 2] = y[0, 2]
        r[:1] = _linear(read[:1], network.head.weight, network.head.bias, start, gamma)
        r = _norm(network.norm, tokens[-1], r)
        for block, before in zip(reversed(network.blocks), reversed(tokens[:-1]), strict=True):
            r = _block(block, before, r, gamma)
        r_patches = (r * torch.cat([network.token[0], patches]) / tokens[0])[1:]
        convolve = functools.partial(F.conv2d, stride=8)
        w, b = network.patches.weight, network.patches.bias
        grid = r_patches.mT.view(1, -1, 4, 4)
        expected = relevances.gamma(lambda x, w, b: convolve(x, w, b), x, w, b, grid, gamma)[0].sum(0)
    assert_close(found, expected.float(), 1e-4)

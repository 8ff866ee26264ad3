import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from service.engine.network.rules.opening import opened, written_out


def _tokens(heads=2, length=5, width=4, seed=0):
    return torch.randn(3, heads, length, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.randn(5, 5, generator=torch.Generator().manual_seed(9))},
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()},
    ],
    ids=str,
)
def test_attention_written_out_is_the_fused_one(options):
    q, k, v = (_tokens(seed=seed) for seed in range(3))
    seen = []
    found = written_out(q, k, v, **options, weights=lambda a: seen.append(a) or a)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q, k, v, **options))
    assert seen[0].shape == (3, 2, 5, 5)
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(3, 2, 5))


def test_heads_may_share_keys():
    q, k, v = _tokens(4), _tokens(2, seed=1), _tokens(2, seed=2)
    found = written_out(q, k, v, enable_gqa=True)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q, k, v, enable_gqa=True))


class Calls(TorchFunctionMode):
    """Notes what is called, also inside of the attention function."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        if func.__name__ == "multi_head_attention_forward":
            with self:
                return opened(func)(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_what_the_attention_function_calls_is_met(weights, first):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=first).eval().requires_grad_(False)
    x = torch.randn(3, 5, 8)
    expected = attention(x, x, x, need_weights=weights, average_attn_weights=False)
    with Calls() as calls:
        found = attention(x, x, x, need_weights=weights, average_attn_weights=False)
    assert "linear" in calls.names
    assert ("softmax" if weights else "scaled_dot_product_attention") in calls.names
    torch.testing.assert_close(found, expected)

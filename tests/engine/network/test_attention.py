import pytest
import torch
from torch import nn
from torch.nn import functional as F

from service.engine.network.attention import Attentions

X = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


def _watched(call, rows=2):
    seen = {}
    with Attentions(rows, lambda address, a: seen.setdefault(address, a)) as watch:
        result = call()
    return result, seen, watch.others


def _heads(x):
    return x.unflatten(2, (2, 4)).transpose(1, 2)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_every_way_of_the_module(weights, first):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, batch_first=first).eval()
    x = X if first else X.transpose(0, 1)
    result, seen, others = _watched(lambda: module(x, x, x, need_weights=weights))
    expected, own = module(x, x, x, need_weights=True, average_attn_weights=False)
    torch.testing.assert_close(result[0], expected)
    assert list(seen) == ["attention#1"]
    torch.testing.assert_close(seen["attention#1"], own)
    assert others == []


def test_a_softmax_of_its_own_and_the_fused_function():
    q, k, v = (_heads(X + i) for i in range(3))
    own = (q @ k.mT).softmax(-1)
    calls = {
        "method": lambda: (q @ k.mT).softmax(dim=-1) @ v,
        "function": lambda: F.softmax(q @ k.mT, dim=3) @ v,
        "torch": lambda: torch.softmax(q @ k.mT, -1) @ v,
        "fused": lambda: F.scaled_dot_product_attention(q, k, v, scale=1.0),
    }
    for call in calls.values():
        result, seen, _ = _watched(call)
        torch.testing.assert_close(result, own @ v)
        torch.testing.assert_close(seen["attention#1"], own)


def test_one_head_without_an_axis_of_its_own():
    _, seen, others = _watched(lambda: (X @ X.mT).softmax(-1))
    assert seen["attention#1"].shape == (2, 1, 6, 6)
    assert others == []


def test_what_goes_on_is_what_meets_returns():
    with Attentions(2, lambda _, a: torch.zeros_like(a)):
        result = F.scaled_dot_product_attention(_heads(X), _heads(X), _heads(X))
    assert not result.any()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: (X @ X[:, :2].mT).softmax(-1), "6 queries attend to 2 keys"),
        (
            lambda: (X.view(4, 3, 8) @ X.view(4, 3, 8).mT).softmax(-1),
            "in 2 parts a picture, which may be windows or heads",
        ),
        (lambda: torch.rand(2, 4, 2, 3, 3).softmax(-1), "windows of 3 tokens attend, each to itself"),
    ],
)
def test_what_is_not_attention_over_all_tokens_is_told(call, told):
    _, seen, others = _watched(call)
    assert not seen
    assert told in others[0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.rand(2, 5).softmax(-1),  # of classes
        lambda: torch.rand(2, 3, 5, 5).softmax(1),  # of channels
        lambda: torch.rand(2, 3, 1, 1).softmax(-1),  # of a single number
    ],
)
def test_a_softmax_of_something_else_is_none(call):
    assert _watched(call)[1:] == ({}, [])

import pytest
import torch

from service.contract import Attention, Layout
from service.explainers.attention.tokens import as_map, blocks, joined, placed, read_from, reading, start
from tests.explainers.attention.test_attention import vision

ATTENTION = Attention(Layout("tokens", (2, 3), 2), (0, 1))


def test_heads_are_joined():
    a = torch.tensor([[[1.0, 4.0]], [[3.0, 0.0]]])
    assert joined(a, "mean").tolist() == [[2, 2]]
    assert joined(a, "max").tolist() == [[3, 4]]
    assert joined(a, "min").tolist() == [[1, 0]]


def test_tokens_as_a_map():
    row = torch.arange(8.0)
    assert as_map(row, ATTENTION).tolist() == [[2, 3, 4], [5, 6, 7]]
    assert placed(row, ATTENTION) == pytest.approx(27 / 28)


def test_a_row_is_the_mean_of_what_is_read():
    r = torch.arange(64.0).view(8, 8)
    assert torch.equal(read_from(r, ATTENTION), (r[0] + r[1]) / 2)
    assert reading(ATTENTION) == [0, 1]
    assert reading(Attention(ATTENTION.layout, tuple(range(2, 8)))) == "patches"


def test_blocks_in_the_order_of_the_forward(small):
    facts = small(vision(depth=3)).facts
    assert list(blocks(facts)) == ["attention#1", "attention#2", "attention#3"]
    assert torch.equal(start(facts, "attention#1", torch.device("cpu")), torch.eye(17))

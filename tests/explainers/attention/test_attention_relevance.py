import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from service.explainers.attention.attention_relevance import AttentionRelevance
from tests.explainers.attention.test_attention import HOW, vision
from tests.explainers.conftest import assert_close, tiny_input
from tests.oracles import Case
from tests.transformers import Vision, row_as_map

TOLERANCE = 1e-4


def oracle(case: Case) -> Tensor:
    """Blocks written out under autograd, so that their attention can be differentiated."""
    network = case.network
    assert isinstance(network, Vision)
    with torch.enable_grad():
        maps = network.patches(case.x.clone().requires_grad_())
        t = torch.cat([network.token, maps.flatten(2).mT], 1) + network.places_of(maps)
        kept = []
        for block in network.blocks:
            q, k, v = (u.unflatten(2, (block.heads, -1)).transpose(1, 2) for u in block.qkv(block.norm1(t)).chunk(3, 2))
            kept.append(torch.softmax(q @ k.mT / q.shape[3] ** 0.5, 3))
            t = t + block.out((kept[-1] @ v).transpose(1, 2).flatten(2))
            t = t + block.down(F.gelu(block.up(block.norm2(t))))
        t = network.norm(t)
        y = network.head(t[:, 0] if network.prefix else t.mean(1))[0, case.target]
        gradients = torch.autograd.grad(y, kept)
    r = torch.eye(t.shape[1])
    for a, g in zip(kept, gradients, strict=True):
        r = r + (a * g)[0].detach().relu().mean(0) @ r
    return row_as_map(network, r - torch.eye(len(r)))


@pytest.mark.oracle("attention-relevance")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_equals_blocks_written_out(small, how, prefix):
    subject = small(vision(how, prefix=prefix))
    found = subject.explain(AttentionRelevance(), tiny_input(), [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        assert m.target.index == target
        assert_close(m.array, oracle(Case(subject.plain, tiny_input(), target=target)), TOLERANCE)
    assert float((found.maps[0].array - found.maps[1].array).abs().max()) > 0  # it knows the class

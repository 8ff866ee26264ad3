import pytest
import torch
from torch import Tensor

from service.explainers.attention.attention_rollout import AttentionRollout
from tests.explainers.attention.test_attention import HOW, vision
from tests.explainers.conftest import assert_close, tiny_input
from tests.oracles import Case
from tests.transformers import Vision, attentions, row_as_map

TOLERANCE = 1e-5


def oracle(case: Case) -> Tensor:
    """The product of the blocks' own weights, with the identity and scaled by rows, entry by entry."""
    assert isinstance(case.network, Vision)
    heads, r = case.params.get("heads", "mean"), None
    for weights in attentions(case.network, case.x):
        a = {"mean": weights[0].mean(0), "max": weights[0].amax(0), "min": weights[0].amin(0)}[heads]
        mixed = torch.zeros_like(a)
        for i in range(len(a)):
            for j in range(len(a)):
                mixed[i, j] = a[i, j] + (i == j)
            mixed[i] /= sum(mixed[i])
        r = mixed if r is None else mixed @ r
    assert r is not None
    return row_as_map(case.network, r)


@pytest.mark.oracle("attention-rollout")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("heads", ["mean", "max", "min"])
def test_equals_the_product_of_the_modules_own_weights(small, how, prefix, heads):
    subject = small(vision(how, prefix=prefix))
    found = subject.explain(AttentionRollout(heads=heads), tiny_input())
    assert_close(found.maps[0].array, oracle(Case(subject.plain, tiny_input(), params={"heads": heads})), TOLERANCE)
    assert found.details["row_sum"] == pytest.approx(1, abs=1e-5)
    assert found.details["placed"] == pytest.approx(float(found.maps[0].array.sum()), abs=1e-5)
    assert found.details["blocks"] == 2

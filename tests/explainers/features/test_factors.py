import pytest
import torch
from torch import Tensor

from service.explainers.features.factors import factorised
from tests.oracles import quiet


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@pytest.mark.parametrize("shape", [(24, 49), (64, 16), (10, 10)])
@pytest.mark.parametrize("parts", [2, 5])
def test_scikit_learn_gets_no_nearer(shape, parts):
    """The same start, and coordinate descent to its end."""
    from sklearn.decomposition import NMF

    x = seeded(*shape)
    found = factorised(x, parts)
    with quiet():  # it says that it is not at its end yet
        theirs = NMF(parts, init="nndsvd", solver="cd", tol=1e-12, max_iter=2000).fit(x.numpy())
    assert found.error <= 1.002 * theirs.reconstruction_err_ / float(x.norm())
    assert float(found.w.min()) >= 0
    assert float(found.h.min()) >= 0
    assert found.error == pytest.approx(float((x - found.w @ found.h).norm() / x.norm()))


def test_parts_that_are_there_are_found():
    """Three patterns at places that do not overlap: the factors are they, up to order and scale."""
    w, h = seeded(20, 3), torch.zeros(3, 30, dtype=torch.double)
    w[:3] = torch.eye(3)  # each has a channel of its own, or mixtures of them would do as well
    for k in range(3):
        h[k, 10 * k : 10 * k + 10] = seeded(10, seed=k + 1)
    found = factorised(w @ h, 3)
    assert found.error < 1e-3
    likeness = (found.w / found.w.norm(dim=0)).T @ (w / w.norm(dim=0))
    assert float(likeness.max(0).values.min()) > 0.9999
    assert sorted(likeness.argmax(0).tolist()) == [0, 1, 2]


def test_fewer_rows_or_columns_than_parts_give_fewer():
    found = factorised(seeded(3, 8), 5)
    assert found.w.shape == (3, 3)
    assert found.h.shape == (3, 8)


def test_more_parts_than_rank_leave_some_empty():
    x = seeded(6, 1) @ seeded(1, 9)
    found = factorised(x, 4)
    assert found.error < 1e-6
    assert torch.isfinite(found.w).all()
    assert torch.isfinite(found.h).all()


def test_nothing_is_a_product_of_nothing():
    found = factorised(torch.zeros(4, 9), 2)
    assert found.error == 0
    assert found.w.eq(0).all()


def test_each_round_comes_nearer():
    x = seeded(12, 20)
    errors = [factorised(x, parts).error for parts in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert factorised(x, 4).error == factorised(x, 4).error  # nothing is drawn at random

"""What is written out in parts answers with what the call itself does, however its arguments are given."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from service.engine.network.rules.composed import LARGEST, SEVERAL


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


A, B, C = (_drawn(i, 2, 4, 4) for i in range(3))
CALLS = {
    "glu": (F.glu, (A,), {}),
    "glu by names": (F.glu, (), {"input": A, "dim": 1}),
    "lerp": (torch.lerp, (A, B, C), {}),
    "lerp by a number": (torch.lerp, (A, B), {"weight": 0.3}),
    "addcmul": (torch.addcmul, (A, B, C), {"value": 0.5}),
    "addcdiv": (torch.addcdiv, (A,), {"tensor1": B, "tensor2": C}),
    "addmm": (torch.addmm, (A[0], B[0], C[0]), {"beta": 0.5}),
    "addmm by names": (torch.addmm, (A[0],), {"mat1": B[0], "mat2": C[0], "alpha": 2}),
    "baddbmm": (torch.baddbmm, (A, B, C), {}),
    "bilinear": (F.bilinear, (A, B, _drawn(3, 5, 4, 4), _drawn(4, 5)), {}),
    "cosine_similarity": (F.cosine_similarity, (A, B), {"dim": -1}),
    "pairwise_distance": (F.pairwise_distance, (A, B), {"keepdim": True}),
    "pairwise_distance of order 1": (F.pairwise_distance, (A, B, 1), {}),
    "prod": (torch.prod, (A, -1), {}),
    "prod that is kept": (torch.prod, (A,), {"dim": 1, "keepdim": True}),
    "softmin": (F.softmin, (A, 1), {}),
    "amax": (torch.amax, (A, (1, 2)), {}),
    "amax that is kept": (torch.amax, (), {"input": A, "dim": 1, "keepdim": True}),
    "amin": (torch.amin, (A, -1), {}),
    "max of two": (torch.max, (A, B), {}),
    "max of two by names": (torch.max, (A,), {"other": B}),
    "min of two": (torch.min, (A, B), {}),
    "max": (torch.max, (A, 1), {}),
    "max that is kept": (torch.max, (A,), {"dim": -1, "keepdim": True}),
    "min": (torch.min, (A, 2, True), {}),
    "maximum": (torch.maximum, (A, B), {}),
    "minimum": (torch.minimum, (A, B), {}),
    "fmax": (torch.fmax, (A, B), {}),
    "fmin": (torch.fmin, (A, B), {}),
    "aminmax": (torch.aminmax, (A,), {"dim": 2, "keepdim": True}),
    "adaptive_max_pool1d": (F.adaptive_max_pool1d, (A, 2), {}),
    "adaptive_max_pool1d by a list": (F.adaptive_max_pool1d, (A, [1]), {}),
    "max_pool1d": (F.max_pool1d, (A, 3, 2, 1), {}),
    "max_pool1d by names": (F.max_pool1d, (A,), {"kernel_size": (2,), "dilation": 2, "ceil_mode": True}),
}


@pytest.mark.parametrize("name", CALLS)
def test_parts_make_the_whole(name):
    func, args, kwargs = CALLS[name]
    parts, whole = ({**SEVERAL, **LARGEST}[name.split()[0]](*args, **kwargs), func(*args, **kwargs))
    if not isinstance(whole, Tensor):
        parts, whole = parts[0], whole[0]
        assert parts is not None
    torch.testing.assert_close(parts, whole)


def test_every_one_is_tried():
    assert {name.split()[0] for name in CALLS} == {*SEVERAL, *LARGEST}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        *(("amax", (A,)), ("amax", (A, 0)), ("amin", (A, (0, 1))), ("max", (A,)), ("min", (A,))),
        *(("max", (A, 0)), ("min", (A, 0)), ("aminmax", (A,)), ("prod", (A,)), ("prod", (A, 0))),
    ],
)
def test_what_is_over_all_pictures_is_not_written_out(name, args):
    assert {**SEVERAL, **LARGEST}[name](*args) is None


def test_maxima_beside_where_they_are_have_slopes_alone():
    found, where = LARGEST["max_pool1d"](A, 2, return_indices=True)
    assert where is None
    assert torch.equal(found, F.max_pool1d(A, 2))
    assert LARGEST["max"](A, 1)[1] is None

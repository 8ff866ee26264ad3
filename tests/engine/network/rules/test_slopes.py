import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from service.engine.network.rules.slopes import answered, learns, nonzero, proportional, sloped, stabilised


def _x() -> Tensor:
    return torch.tensor([-2.0, -0.5, 0.0, 0.5, 3.0], requires_grad=True)


def test_a_value_is_exact_and_its_slope_another_ones():
    x = _x()
    y = sloped(x.sin(), 7 * x)
    assert torch.equal(y.detach(), x.detach().sin())
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [7] * 5


@pytest.mark.parametrize("f", [F.relu, F.silu, F.gelu, torch.tanh, F.hardswish, lambda t: t.clamp(0, 2)])
def test_all_that_gets_to_a_function_passes_on(f):
    x = _x()
    y = proportional(f(x), x)
    (signal,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y.detach(), f(x.detach()))
    torch.testing.assert_close(signal * x.detach(), f(x.detach()))


def test_divisors_are_moved_away_from_zero():
    assert stabilised(torch.tensor([-1.0, -0.0, 0.0, 1.0]), 0.5).tolist() == [-1.5, 0.5, 0.5, 1.5]
    moved = nonzero(torch.tensor([0.0, -2.0, 3.0]))
    assert float(moved[0]) > 0
    assert moved[1:].tolist() == [-2, 3]


@pytest.mark.parametrize(
    ("call", "kwargs", "own"),
    [
        (F.relu, {}, False),
        (F.relu, {"inplace": True}, True),
        (Tensor.mul_, {}, True),
        (Tensor.__imul__, {}, True),
        (Tensor.__mul__, {}, False),
        (Tensor.mul, {"inplace": False}, False),
    ],
)
def test_a_call_in_place_answers_with_what_it_was_given(call, kwargs, own):
    x, result = torch.zeros(3), torch.ones(3)
    assert (answered(result, x, call, kwargs) is x) == own
    assert torch.equal(x, torch.full((3,), float(own)))


def test_only_tensors_that_need_a_gradient_learn():
    assert learns(_x(), _x())
    assert not learns(_x(), _x().detach())
    assert not learns(_x(), 2.0)
    assert not learns(None)

import torch

from service.engine.network.places.upstream import upstream


def test_everything_before_once_and_nothing_behind_an_end():
    x = torch.ones(2, requires_grad=True)
    a = x.exp()
    b = a.sin() + a.cos()
    other = x.tan()
    found = list(upstream(b.grad_fn))
    assert len(found) == len(set(found)) == 5  # +, sin, cos, exp, and x itself
    assert a.grad_fn in found
    assert sum(getattr(node, "variable", None) is x for node in found) == 1
    assert other.grad_fn not in found
    assert len(list(upstream(b.grad_fn, {a.grad_fn}))) == 4
    assert list(upstream(b.grad_fn, {b.grad_fn})) == [b.grad_fn]

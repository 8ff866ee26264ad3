"""What a network computed before a layer is handed on, and not computed again."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from service.engine.network.tails.replay import AnotherWay, Noting, Prefix, Replaying


def noted(call):
    """Run a function, noted to its end; return what it returned and the notes, settled."""
    noting = Noting()
    with noting, torch.inference_mode():
        result = call()
        calls = noting.settled()
    return result, calls


def replayed(calls, call, rows=1, *, expands=False):
    with Replaying(Prefix(torch.zeros(1), calls, torch.zeros(1)), rows, expands=expands), torch.inference_mode():
        return call()


X = torch.arange(1.0, 7).view(1, 6)


def test_what_can_be_got_hold_of_is_handed_on_and_the_rest_only_has_its_shape():
    def call():
        kept = X * 2
        gone = X * 3
        total = gone.sum(1)
        del gone
        return kept, total

    (kept, total), calls = noted(call)
    assert [one.shape for one in calls] == [(1, 6), (1, 6), (1,)]
    assert torch.equal(calls[0], kept)
    assert torch.equal(calls[2], total)
    assert calls[1].untyped_storage().nbytes() <= 4  # a stub holds a single number


def test_no_memory_is_held_of_what_is_gone():
    held = []

    def call():
        gone = torch.nn.functional.relu(X)
        held.append(weakref.ref(gone))
        return gone.sum()

    _, calls = noted(call)
    gc.collect()
    assert held[0]() is None
    assert calls


def test_nothing_is_computed_again():
    made = set()

    class Watching(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            made.add(func.__name__)
            return func(*args, **(kwargs or {}))

    def call():
        a = X * 2
        return (a + 1).chunk(2, 1)

    expected, calls = noted(call)
    with Watching():
        call()
        assert made >= {"mul", "add", "chunk"}
        made.clear()
        found = replayed(calls, call)
    assert not made & {"mul", "add", "chunk"}
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_numbers_shapes_and_tuples_are_handed_on_as_they_were():
    def call():
        a = X.view(2, 3)
        return a.shape, a.dim(), a.max(1), a.sum().item(), tuple(a.split(1))

    expected, calls = noted(call)
    shape, dim, largest, total, parts = replayed(calls, call)
    assert (shape, dim, total) == (expected[0], expected[1], expected[3])
    assert torch.equal(largest.values, expected[2].values)
    assert all(torch.equal(a, b) for a, b in zip(parts, expected[4], strict=True))


def test_what_is_handed_on_may_be_written_to():
    def call():
        return X * 2

    expected, calls = noted(call)
    before = expected.clone()

    def written():
        with Replaying(Prefix(X, calls, X), 1, expands=False) as replaying:
            result = call()
            replaying.over = True
            return result.add_(1)

    with torch.inference_mode():
        assert torch.equal(written(), before + 1)
        assert torch.equal(written(), before + 1)


def test_where_it_expands_a_pictures_values_are_there_for_each_row():
    kept = []

    def call():
        kept[:] = [X * 2, torch.zeros(3)]
        kept[1] = kept[1] + 1
        return kept

    _, calls = noted(call)
    one, other = replayed(calls, call, rows=4, expands=True)
    assert torch.equal(one, (X * 2).expand(4, 6))
    assert other.shape == (3,)  # no picture's


def test_other_calls_than_before_are_an_error():
    _, calls = noted(lambda: X * 2)
    with pytest.raises(AnotherWay, match="other calls"):
        replayed(calls, lambda: (X * 2) * 3)


def test_once_it_is_over_calls_are_made():
    _, calls = noted(lambda: X * 2)
    with Replaying(Prefix(X, calls, X), 1, expands=False) as replaying, torch.inference_mode():
        nn.functional.relu(X)
        replaying.over = True
        assert torch.equal(-X + 1, 1 - X)

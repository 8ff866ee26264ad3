"""A layer looks where the layers look that it is made of, by the graph, or by their order where there is none."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from service.engine.network.capture import install
from service.engine.network.places.moved import moved
from service.engine.network.proofs.watch import watch_gradients

X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Ways(nn.Module):
    """Two ways of the picture, and what is made of one, of both, and of one and the picture itself."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.late, self.both, self.beside = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        one, other = self.one(x), self.other(x)
        late = self.late(one.relu_())
        return self.both(one + other).mean((2, 3)) + self.beside(late + x).mean((2, 3))


@pytest.fixture
def watched():
    network = Ways().eval()
    install(network)
    return watch_gradients(network, X)


def _found(watched, **own):
    calls = [replace(call, own=own.get(call.path)) for call in watched.calls]
    return {calls[i].path for i in moved(calls, watched)}


def test_what_all_ways_of_lead_over_moved_layers_is_moved(watched) -> None:
    assert watched.paths == ["one", "other", "late", "both", "beside"]
    assert _found(watched) == set()
    assert _found(watched, one=True) == set()
    assert _found(watched, one=False) == {"one", "late"}
    assert _found(watched, one=False, other=True) == {"one", "late"}
    assert _found(watched, one=False, other=False) == {"one", "late", "other", "both"}
    assert _found(watched, one=False, other=False, late=True) == {"one", "other", "both"}


def test_without_a_graph_all_that_was_seen_before_has_to_be_moved(watched) -> None:
    def found(leaves=None, **own):
        calls = [replace(call, own=own.get(call.path)) for call in watched.calls]
        watching = None if leaves is None else replace(watched, leaves=leaves)
        return {calls[i].path for i in moved(calls, watching)}

    for leaves in (None, [leaf.detach() for leaf in watched.leaves]):
        assert found(leaves, other=False) == {"other", "late", "both", "beside"}
        assert found(leaves, one=True, other=False) == {"other"}
        assert found(leaves, other=False, late=True) == {"other"}


def test_what_has_pictures_on_its_second_axis_counts(watched) -> None:
    calls = [replace(call) for call in watched.calls]
    calls[0].turned = replace(calls[0], own=False)
    assert {calls[i].path for i in moved(calls, watched)} == {"one", "late"}
